//! Where a FAISS file of a graph has its links, for tests that bend them.

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Where the links of a graph's rows on the lowest level are in its file. Before all links stands where those of each
/// row begin: a count, and then that many rising numbers; the last one is the count of links.
pub(crate) fn links(bytes: &[u8], rows: usize) -> Vec<std::ops::Range<usize>> {
    const LOWEST: usize = 64;
    let begins = (0..bytes.len() - 8 * (rows + 3)).find(|at| {
        let value = |n: usize| number(bytes, at + 8 + 8 * n) as usize;
        number(bytes, *at) as usize == rows + 1
            && value(0) == 0
            && (1..=rows).all(|n| value(n) >= value(n - 1) + LOWEST)
    });
    let begins = begins.expect("where the links of each row begin");
    let begin = |row: usize| number(bytes, begins + 8 + 8 * row) as usize;
    let links = (begins + 8 * (rows + 2)..bytes.len() - 8).find(|at| number(bytes, *at) as usize == begin(rows));
    let links = links.expect("the links") + 8;
    let of_row = |row: usize| links + 4 * begin(row)..links + 4 * (begin(row) + LOWEST);
    (0..rows).map(of_row).collect()
}
