//! verdigris-tests.
