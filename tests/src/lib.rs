//! Tests of several roles together live beside this file in `tests/`; the library itself is empty.
#![forbid(unsafe_code)]
