//! Which rows a filter lets through: one small catalog, many filters. What the language promises is in `docs/filters.md`.

mod rows_support;

use roaring::RoaringBitmap;
use rows_support::rows_of_documents;
use serde_json::{Value, json};
use verdigris_core::manifest::SegmentId;
use verdigris_engine::filter::{Filter, FilterCache};
use verdigris_engine::rows::Rows;

fn catalog() -> Vec<Value> {
    vec![
        json!({"id": "p0", "title": "Cordless Drill", "brand": "Bosch", "price": 99, "stock": true, "tags": ["new", "red wine"],
            "attributes": {"Colour name": "red", "volts": 18, "a.b": 1}, "released": "2024-05-01"}),
        json!({"id": "p1", "title": "drill bits, 18 V", "brand": "bosch", "price": 12.5, "stock": false, "tags": "new",
            "attributes": {"Colour name": "blue"}, "released": "2024-05-01T10:00:00+02:00"}),
        json!({"id": "p2", "title": "Café chair", "price": 20.0, "items": [{"n": 1, "c": "x"}, {"n": 5}], "released": "soon"}),
        json!({"id": "p3", "title": "", "price": "20", "big": 9_007_199_254_740_993_u64, "tags": []}),
        json!({"id": "p/4 #x", "brand": null, "price": [5, 150], "big": 9_007_199_254_740_992.0, "huge": u64::MAX}),
        json!({"id": "p5", "brand": "Bosch*", "n": -0.0, "date": "2023", "size": "100-240", "big": 0.5}),
    ]
}

fn found(rows: &Rows, filter: &str) -> Vec<u32> {
    let filter = Filter::parse(filter).unwrap_or_else(|error| panic!("{error}"));
    rows.filter(&filter).expect("rows").iter().collect()
}

fn check_all(checks: &[(&str, &[u32])]) {
    let (_folder, rows) = rows_of_documents(&catalog(), 2);
    for (filter, expect) in checks {
        assert_eq!(found(&rows, filter), *expect, "{filter}");
    }
}

#[test]
fn equality_goes_by_value_and_kind() {
    check_all(&[
        ("", &[0, 1, 2, 3, 4, 5]),
        ("  ", &[0, 1, 2, 3, 4, 5]),
        ("brand = Bosch", &[0]),
        ("brand = \"Bosch\"", &[0]),
        ("brand = 'Bosch'", &[0]),
        ("title = ''", &[3]),
        ("price = 20", &[2, 3]),
        ("price = 20.0", &[2]),
        ("price = 2e1", &[2]),
        ("price = \"20\"", &[3]),
        ("price = 5", &[4]),
        ("stock = true", &[0]),
        ("stock = false", &[1]),
        ("stock = \"true\"", &[]),
        ("n = 0", &[5]),
        ("tags = new", &[0, 1]),
        ("unknown = 1", &[]),
        ("id = p1", &[1]),
        ("id = \"p/4 #x\"", &[4]),
        ("id = p6", &[]),
    ]);
}

#[test]
fn large_integers_keep_their_last_digit() {
    check_all(&[
        ("big = 9007199254740993", &[3]),
        ("big = 9007199254740992", &[4]),
        ("big > 9007199254740992", &[3]),
        ("big >= 9007199254740992", &[3, 4]),
        ("big < 9007199254740993", &[4, 5]),
        ("huge = 18446744073709551615", &[4]),
        ("huge > 18446744073709551614", &[4]),
        ("huge < 18446744073709551616", &[4]),
        ("huge > 1e300", &[]),
        ("huge < 1e300", &[4]),
    ]);
}

#[test]
fn order_compares_numbers_with_numbers_and_texts_with_texts() {
    check_all(&[
        ("price < 20", &[1, 4]),
        ("price <= 20", &[1, 2, 4]),
        ("price > 20", &[0, 4]),
        ("price > 12.5", &[0, 2, 4]),
        ("price >= 12.5", &[0, 1, 2, 4]),
        ("price < -1", &[]),
        ("size < 20", &[]),
        ("size < \"20\"", &[5]),
        ("brand >= \"C\"", &[1]),
        ("brand < b", &[0, 5]),
        ("stock < 1", &[]),
        ("id >= p3 id < p6", &[3, 5]),
    ]);
}

#[test]
fn moments_compare_as_moments() {
    check_all(&[
        ("released < 2024-05-01T08:00:00Z", &[0]),
        ("released <= 2024-05-01T08:00:00Z", &[0, 1]),
        ("released > \"2024-05-01\"", &[1]),
        ("released = 2024-05-01T00:00:00Z", &[0]),
        ("released = 2024-05-01", &[0]),
        ("released != 2024-05-01", &[1, 2]),
        ("released >= 2000-01-01", &[0, 1]),
        ("date < 2024-01-01", &[]),
    ]);
}

#[test]
fn a_missing_field_passes_no_comparison_and_every_negation_of_one() {
    check_all(&[
        ("brand != Bosch", &[1, 5]),
        ("NOT brand = Bosch", &[1, 2, 3, 4, 5]),
        ("-brand = Bosch", &[1, 2, 3, 4, 5]),
        ("price != 5", &[0, 1, 2, 3]),
        ("attributes != 5", &[]),
        ("id != p1", &[0, 2, 3, 4, 5]),
        ("brand:*", &[0, 1, 5]),
        ("NOT brand:*", &[2, 3, 4]),
        ("tags:*", &[0, 1]),
        ("attributes:*", &[0, 1]),
        ("title:*", &[0, 1, 2, 3]),
        ("id:*", &[0, 1, 2, 3, 4, 5]),
    ]);
}

#[test]
fn has_finds_words_elements_and_keys() {
    check_all(&[
        ("title:drill", &[0, 1]),
        ("title:\"DRILL cordless\"", &[0]),
        ("title:dril", &[]),
        ("title:cafe", &[2]),
        ("title:CAFÉ", &[2]),
        ("title:18", &[1]),
        ("tags:wine", &[0]),
        ("tags:new", &[0, 1]),
        ("price:20", &[2, 3]),
        ("stock:true", &[0]),
        ("attributes:volts", &[0]),
        ("attributes:\"Colour name\"", &[0, 1]),
        ("items:c", &[2]),
        ("brand:\"*\"", &[0, 1, 5]),
        ("brand:\"\\*\"", &[5]),
    ]);
}

#[test]
fn paths_reach_into_objects_and_lists_of_objects() {
    check_all(&[
        ("attributes.\"Colour name\" = red", &[0]),
        ("attributes.'Colour name':BLUE", &[1]),
        ("attributes.volts >= 18", &[0]),
        ("attributes.\"a.b\" = 1", &[0]),
        ("attributes.a.b = 1", &[]),
        ("items.n > 3", &[2]),
        ("items.n = 1 AND items.c = x", &[2]),
        ("items.n:*", &[2]),
    ]);
}

#[test]
fn stars_stand_for_what_comes_before_or_after() {
    check_all(&[
        ("brand = Bo*", &[0, 5]),
        ("brand = \"*sch\"", &[0, 1]),
        ("brand = *os*", &[0, 1, 5]),
        ("brand = \"Bosch\\*\"", &[5]),
        ("brand = Bosch\\*", &[5]),
        ("brand != Bo*", &[1]),
        ("id = p/*", &[4]),
        ("price = 2*", &[3]),
    ]);
}

#[test]
fn or_binds_more_tightly_than_and() {
    check_all(&[
        ("brand = Bosch OR brand = bosch AND price < 20", &[1]),
        ("price < 20 AND brand = Bosch OR brand = bosch", &[1]),
        ("(price < 20 AND brand = Bosch) OR brand = bosch", &[1]),
        ("price < 20 brand = bosch", &[1]),
        ("NOT stock = true OR price = 99", &[0, 1, 2, 3, 4, 5]),
        ("NOT (stock = true OR price = 20)", &[1, 4, 5]),
        ("NOT(stock = true)price:*", &[1, 2, 3, 4]),
        ("-(id = p0 OR id = p1) -title:*", &[4, 5]),
        ("NOT NOT stock = true", &[0]),
    ]);
}

#[test]
fn texts_that_are_cut_stay_equal_to_themselves_alone() {
    let long = |end: &str| format!("{}{end}", "long words ".repeat(200));
    let (_folder, rows) = rows_of_documents(
        &[
            json!({"t": long("a")}),
            json!({"t": long("b")}),
            json!({"t": "long words"}),
        ],
        0,
    );
    assert_eq!(found(&rows, &format!("t = \"{}\"", long("a"))), [0]);
    assert_eq!(found(&rows, &format!("t = \"{}\"", long("c"))), [] as [u32; 0]);
    assert_eq!(found(&rows, "t = long*"), [0, 1, 2]);
    assert_eq!(found(&rows, "t:words"), [0, 1, 2]);
    assert_eq!(found(&rows, "t = *words"), [2]);
}

#[test]
fn equal_filters_share_one_canonical_text_and_others_do_not() {
    let canonical = |text: &str| Filter::parse(text).expect(text).canonical().to_owned();
    for (a, b) in [
        ("a = 1 AND b = 2", " b = 2   (a = 1)"),
        ("a = 1 OR b = 2", "b = 2 OR a = 1 OR b = 2"),
        ("a = \"x\"", "a = 'x'"),
        ("-a = 1", "NOT a = 1"),
        ("a = \"p*\"", "a = p*"),
    ] {
        assert_eq!(canonical(a), canonical(b), "{a} | {b}");
    }
    for (a, b) in [
        ("a = 1", "a = \"1\""),
        ("a = 1 AND b = 2", "a = 1 OR b = 2"),
        ("a.b = 1", "\"a.b\" = 1"),
        ("a = 1", "a != 1"),
        ("a:x", "a = x"),
        ("a = \"p*\"", "a = \"p\\*\""),
        ("a = p*", "a = *p"),
    ] {
        assert_ne!(canonical(a), canonical(b), "{a} | {b}");
    }
}

#[test]
fn the_cache_answers_as_the_filter_does_and_stays_within_its_bytes() {
    let (_folder, rows) = rows_of_documents(&catalog(), 2);
    let (_other_folder, other) = rows_of_documents(&catalog()[..2], 0);
    let cache = FilterCache::new(64 * 1024);
    let (a, b) = (SegmentId::from("a".to_owned()), SegmentId::from("b".to_owned()));
    let filter = Filter::parse("title:drill OR price > 100").expect("a filter");
    for _ in 0..3 {
        let expect = |rows: &[u32]| rows.iter().copied().collect::<RoaringBitmap>();
        assert_eq!(*cache.rows(&a, &rows, &filter).expect("rows"), expect(&[0, 1, 4]));
        assert_eq!(*cache.rows(&b, &other, &filter).expect("rows"), expect(&[0, 1]));
    }
    assert_eq!(cache.entries(), 2);
    for n in 0..1_000 {
        let filter = Filter::parse(&format!("price > {n}")).expect("a filter");
        cache.rows(&a, &rows, &filter).expect("rows");
    }
    assert!(cache.bytes() <= 64 * 1024, "{} bytes", cache.bytes());
    assert!((10..1_000).contains(&cache.entries()), "{} entries", cache.entries());
}
