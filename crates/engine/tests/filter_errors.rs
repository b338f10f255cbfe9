//! A wrong filter is an error that points at its column and says what to write instead.

use verdigris_engine::filter::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_TERMS_MAX, Filter};

fn check(filter: &str, column: usize, problem: &str, hint: Option<&str>) {
    let error = Filter::parse(filter).expect_err(filter);
    assert_eq!(
        (error.column, error.problem.to_string().as_str(), error.hint),
        (column, problem, hint),
        "{filter}"
    );
}

const OPERATOR: Option<&str> =
    Some("write one of = != < <= > >= : and a value; words to search for belong into the query text");
const SEVERAL: Option<&str> = Some("for one of several values, write field = a OR field = b");
const EXISTS: Option<&str> = Some("write field:* for a field that is there, NOT field:* for one that is not");
const QUOTE: Option<&str> = Some("put the value into double quotes");
const STAR: Option<&str> = Some("a star goes at the beginning or the end; write \\* for the character itself");
const CONTAINS: Option<&str> = Some("write : for contained words, or = with a star at either end of the value");

#[test]
fn a_missing_operator_or_value_is_shown_where_it_is_missing() {
    check("price", 6, "an operator is missing after price", OPERATOR);
    check("price 20", 6, "an operator is missing after price", OPERATOR);
    check(
        "a = 1 AND  price   ",
        17,
        "an operator is missing after price",
        OPERATOR,
    );
    check("cordless drill", 9, "an operator is missing after cordless", OPERATOR);
    check(
        "a = 1 and b = 2",
        10,
        "an operator is missing after and",
        Some("AND, OR and NOT are written in capitals"),
    );
    check(
        "not a = 1",
        4,
        "an operator is missing after not",
        Some("AND, OR and NOT are written in capitals"),
    );
    check(
        "brand in (\"a\", \"b\")",
        6,
        "an operator is missing after brand",
        SEVERAL,
    );
    check("brand LIKE \"a%\"", 6, "an operator is missing after brand", CONTAINS);
    check("brand is null", 6, "an operator is missing after brand", EXISTS);
    check("price <", 8, "a value is missing after <", None);
    check("price <  AND a = 1", 8, "a value is missing after <", None);
    check("(price >= )", 10, "a value is missing after >=", None);
    check("title:\"\"", 7, "a value is missing after :", None);
}

#[test]
fn operators_of_other_languages_are_named_with_the_right_one() {
    check("a == 1", 3, "== is not an operator", Some("write ="));
    check("a => 1", 3, "=> is not an operator", Some("write >="));
    check("a =< 1", 3, "=< is not an operator", Some("write <="));
    check("a <> 1", 3, "<> is not an operator", Some("write !="));
    check(
        "a = 1 && b = 2",
        7,
        "a comparison cannot begin with '&'",
        Some("write AND"),
    );
    check(
        "a = 1 || b = 2",
        7,
        "a comparison cannot begin with '|'",
        Some("write OR"),
    );
    check(
        "!a = 1",
        1,
        "a comparison cannot begin with '!'",
        Some("write NOT or -"),
    );
    check("a = 1, b = 2", 6, "an unquoted value cannot have ',' in it", QUOTE);
    check("= 1", 1, "a comparison cannot begin with '='", None);
    check("- a = 1", 2, "an operator is missing after -", OPERATOR);
}

#[test]
fn words_between_comparisons_need_one_on_either_side() {
    check("a = 1 AND", 10, "a comparison is missing after AND", None);
    check("a = 1 OR ", 10, "a comparison is missing after OR", None);
    check("NOT", 4, "a comparison is missing after NOT", None);
    check("AND a = 1", 1, "nothing stands before AND", None);
    check("(OR a = 1)", 2, "nothing stands before OR", None);
    check("a = 1 AND OR b = 1", 11, "a comparison is missing after AND", None);
    check("a = 1 OR AND b = 1", 10, "a comparison is missing after OR", None);
}

#[test]
fn parentheses_and_quotes_must_close() {
    check("(a = 1", 1, "this parenthesis is never closed", None);
    check(
        "a = 1 AND (b = 2 OR (c = 3)",
        11,
        "this parenthesis is never closed",
        None,
    );
    check("(", 1, "this parenthesis is never closed", None);
    check("a = 1)", 6, "this parenthesis was never opened", None);
    check(")", 1, "this parenthesis was never opened", None);
    check("a = 1 AND ()", 11, "the parentheses are empty", None);
    check("a = \"b", 5, "this text is never closed; its \" is missing", None);
    check("a = 'b\"", 5, "this text is never closed; its ' is missing", None);
    check("\"a", 1, "this text is never closed; its \" is missing", None);
    check("a = \"b\"c", 8, "a space is missing after the closing \"", None);
    check("\"a\"b = 1", 4, "a space is missing after the closing \"", None);
    check(
        "a = \"b\\x\"",
        7,
        "a backslash cannot stand before 'x'",
        Some("write \\\\ for a backslash; the others are \\\" \\' \\* \\n \\t"),
    );
}

#[test]
fn values_say_what_they_cannot_be() {
    check("a = b=c", 6, "an unquoted value cannot have '=' in it", QUOTE);
    check("a = b\"c\"", 6, "an unquoted value cannot have '\"' in it", QUOTE);
    check("a = (b)", 5, "a value cannot be in parentheses", SEVERAL);
    check("a = \"b*c\"", 7, "a star within a value has no meaning", STAR);
    check("a < b*", 5, "< takes no star", STAR);
    check("title:dril*", 7, ": takes no star", CONTAINS);
    check("a = *", 5, "a star alone has no meaning after =", EXISTS);
    check("a != \"**\"", 6, "a star alone has no meaning after !=", EXISTS);
    check("a > true", 5, "true has no order", Some("compare it by = or !="));
    check("a = null", 5, "null equals nothing", EXISTS);
    check("now(1) = 2", 1, "now is not a function; filters have none", None);
    check("a = now()", 5, "now is not a function; filters have none", QUOTE);
}

#[test]
fn paths_have_no_empty_parts() {
    let hint = Some("a part with a dot in it goes into double quotes");
    check("a. = 1", 3, "a part of the field's name is empty", hint);
    check("a..b = 1", 3, "a part of the field's name is empty", hint);
    check(".a = 1", 1, "a part of the field's name is empty", hint);
}

#[test]
fn columns_are_counted_in_characters() {
    check(
        "größe = \"✓\" farbe",
        18,
        "an operator is missing after farbe",
        OPERATOR,
    );
}

#[test]
fn length_depth_and_number_of_comparisons_are_limited() {
    let long = format!("a = \"{}\"", "x".repeat(FILTER_BYTES_MAX));
    check(&long, 1, "the filter has 4102 bytes; at most 4096 are allowed", None);
    let nested = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&nested(FILTER_DEPTH_MAX)).is_ok());
    check(
        &nested(FILTER_DEPTH_MAX + 1),
        33,
        "the filter is nested deeper than 32 levels",
        None,
    );
    check(
        &"NOT ".repeat(40),
        129,
        "the filter is nested deeper than 32 levels",
        None,
    );
    let many = |count: usize| "a = 1 ".repeat(count);
    assert!(Filter::parse(&many(FILTER_TERMS_MAX)).is_ok());
    check(
        &many(FILTER_TERMS_MAX + 1),
        1_537,
        "the filter has more than 256 comparisons",
        None,
    );
}

#[test]
fn an_error_is_shown_with_a_caret_under_its_column() {
    let error = Filter::parse("price < 20\tAND brnd 7").expect_err("wrong");
    let expect = "an operator is missing after brnd (column 20)
  price < 20 AND brnd 7
                     ^
write one of = != < <= > >= : and a value; words to search for belong into the query text";
    assert_eq!(error.to_string(), expect);
}

#[test]
fn no_text_makes_the_parser_panic() {
    let pieces = [
        "a", "=", "<", ":", "*", "\"", "'", "(", ")", "-", "AND", "OR", "NOT", " ", ".", "\\", "1", "✓", "!", ",",
    ];
    let mut state = 88_172_645_463_325_252_u64;
    for _ in 0..200_000 {
        let mut text = String::new();
        for _ in 0..state % 13 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(pieces[(state % pieces.len() as u64) as usize]);
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if let Err(error) = Filter::parse(&text) {
            assert!(error.column <= text.chars().count() + 1, "{text:?} {error:?}");
        }
    }
}
