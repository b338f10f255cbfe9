//! verdigris.
fn main() {}
