//! Wrong lines, wrong questions, wrong machines and damaged folders: each with the exit code, the reason and the words
//! that the real executable gives.

#![allow(clippy::print_stdout, reason = "a test says what it skips, and how it is repeated")]

#[path = "bad_input/exits.rs"]
mod exits;
#[path = "bad_input/lines.rs"]
mod lines;
#[path = "bad_input/machine.rs"]
mod machine;
#[path = "bad_input/questions.rs"]
mod questions;
#[path = "bad_input/stored.rs"]
mod stored;

use verdigris_tests::process::Answer;

/// The answer ended with this code and reason, and says this.
#[track_caller]
fn check(answer: &Answer, code: i32, reason: &str, part: &str) {
    assert_eq!((answer.code, answer.reason()), (code, reason), "{}", answer.text);
    let message = answer.json["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(part), "{part:?} is not in {}", answer.text);
}
