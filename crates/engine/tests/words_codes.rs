//! Part numbers are found however they are typed, and by a prefix.

use tempfile::TempDir;
use verdigris_engine::mapped::MappedBytes;
use verdigris_engine::rows::{RowInput, Rows, RowsBuilder};
use verdigris_engine::words::{SegmentWords, WordsQuery, WordsStats, WordsWeights, score_words};

const TITLES: [&str; 8] = [
    "Cordless drill DW-745/B 18 V",
    "Cordless drill DW-744 18 V",
    "Table saw dw 735 with stand",
    "Café machine, men's edition",
    "Sony DSLR-A350 camera body",
    "Panasonic KX-TG6702 phone",
    "USB stick 16GB blue",
    "Bottle cage",
];

fn rows_of(titles: &[&str]) -> (TempDir, Rows) {
    let folder = TempDir::new().expect("a folder");
    let mut builder = RowsBuilder::new(folder.path(), &[]).expect("a builder");
    let document = serde_json::Map::new();
    for title in titles {
        let texts = [*title];
        let input = RowInput {
            id: title,
            chunk: 0,
            generation: 1,
            state: b"",
            document: Some(&document),
            words: &texts,
            codes: &texts,
        };
        builder.add(input).expect("a row");
    }
    let path = folder.path().join("rows.tar");
    builder.finish(&path).expect("an archive");
    let rows = Rows::open(MappedBytes::open(&path).expect("a file")).expect("rows");
    (folder, rows)
}

fn found(rows: &Rows, query: &str) -> Vec<u32> {
    let stats = WordsStats::of([(rows, &Default::default())]);
    let segments = [SegmentWords { rows, allowed: None }];
    let scores = score_words(&segments, &stats, &WordsQuery::parse(query), &WordsWeights::default());
    scores.top(10).into_iter().map(|(_, row, _)| row).collect()
}

#[test]
fn a_part_number_is_found_first_however_it_is_typed() {
    let (_folder, rows) = rows_of(&TITLES);
    let check = |query: &str, row: u32| assert_eq!(found(&rows, query).first(), Some(&row), "{query:?}");
    for query in [
        "DW-745/B",
        "dw745b",
        "dw 745 b",
        "DW745",
        "dw745",
        "(dw-745-b)",
        "DW-745",
        "ＤＷ７４５Ｂ",
    ] {
        check(query, 0);
    }
    check("dw735", 2);
    check("DW-735", 2);
    check("mens", 3);
    check("cafe machines", 3);
    check("dslra350", 4);
    check("dslr a350", 4);
    check("kxtg 6702", 5);
    check("kx tg6702", 5);
    check("16 gb", 6);
    check("16gb", 6);
}

#[test]
fn a_prefix_of_a_part_number_finds_all_that_begin_with_it() {
    let (_folder, rows) = rows_of(&TITLES);
    for query in ["dw74", "dw7", "DW-74"] {
        let mut best = found(&rows, query);
        best.truncate(2);
        best.sort_unstable();
        assert_eq!(best, [0, 1], "{query:?}");
    }
}

#[test]
fn what_no_row_has_finds_nothing() {
    let (_folder, rows) = rows_of(&TITLES);
    for query in ["", "   ", "zzz", "&%$", "xy999"] {
        assert_eq!(found(&rows, query), [] as [u32; 0], "{query:?}");
    }
}
