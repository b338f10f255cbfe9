//! verdigris-search.
