//! verdigris-indexer.
