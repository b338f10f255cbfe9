//! Looking again and again at what moves by itself: until it is so, or for as long as somebody watches.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::CommandError;
use crate::exit::Exit;
use crate::output::{Format, Output, table, to_the_second};

/// Between two looks while watching or waiting.
pub(crate) const LOOK: Duration = Duration::from_millis(500);
/// Phases of a rollout in which something more happens by itself, soon.
const MOVING: [&str; 6] = ["building", "warming", "leveling", "judging", "promoting", "returning"];
/// Moves the cursor home and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Whether something more happens by itself, soon, in this phase of a rollout; before there is one, too.
pub(crate) fn is_moving(phase: &str) -> bool {
    phase.is_empty() || MOVING.iter().any(|moving| phase.eq_ignore_ascii_case(moving))
}

/// How a wait for that has ended: also where gates speak against what was waited for.
pub(crate) fn ended(phase: &str, is_settled: bool) -> Exit {
    match is_settled {
        true if phase.eq_ignore_ascii_case("refused") => Exit::Refused,
        true => Exit::Done,
        false => Exit::NotSearchable,
    }
}

/// What is seen once it is so; or, when the time is up, what is seen then, and false. It is looked at once at least.
pub(crate) async fn until<T, E>(
    limit: Option<Duration>,
    every: Duration,
    look: impl AsyncFn() -> Result<T, E>,
    is_so: impl Fn(&T) -> bool,
) -> Result<(T, bool), E> {
    let began = Instant::now();
    loop {
        let seen = look().await?;
        let done = is_so(&seen);
        if done || limit.is_some_and(|limit| began.elapsed() >= limit) {
            return Ok((seen, done));
        }
        tokio::time::sleep(every).await;
    }
}

/// A live picture, until the process is told to end; for programs, a line whenever something is new.
pub(crate) async fn watch<T, E: From<CommandError>>(
    output: &Output,
    look: impl AsyncFn() -> Result<T, E>,
    value: impl Fn(&T) -> Value,
    shown: impl Fn(&T) -> String,
) -> Result<Exit, E> {
    let mut before = None;
    let is_picture = output.format() == Format::People && std::io::stdout().is_terminal();
    loop {
        let now = look().await?;
        let what = value(&now);
        if before.as_ref() != Some(&what) {
            match (output.format(), is_picture) {
                (Format::Json, _) => output.text(&what.to_string())?,
                (Format::People, true) => output.text(&format!("{CLEAR}{}", shown(&now)))?,
                (Format::People, false) => output.text(&format!("{}\n", shown(&now)))?,
            }
            before = Some(what);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What answered since when, why, by whom: since, lineage, generation, actor, reason.
pub(crate) fn history(served: impl Iterator<Item = [String; 5]>) -> String {
    let rows: Vec<Vec<String>> = served
        .map(|[since, lineage, generation, actor, reason]| {
            vec![to_the_second(&since), lineage, generation, actor, reason]
        })
        .collect();
    if rows.is_empty() {
        return "the first lineage answers since the beginning".to_owned();
    }
    table(&["since", "lineage", "generation", "by", "why"], &["generation"], rows)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn phases_are_known_in_either_writing() {
        for (phase, expect) in [("", true), ("warming", true), ("Warming", true), ("Steady", false)] {
            assert_eq!(is_moving(phase), expect, "{phase}");
        }
    }

    #[test]
    fn a_wait_ends_well_only_where_no_gate_speaks_against_it() {
        assert_eq!(ended("steady", true), Exit::Done);
        assert_eq!(ended("Refused", true), Exit::Refused);
        assert_eq!(ended("Refused", false), Exit::NotSearchable);
    }

    #[tokio::test]
    async fn it_is_looked_at_until_it_is_so_and_once_where_there_is_no_time() {
        let looks = Cell::new(0);
        let look = async || {
            looks.set(looks.get() + 1);
            Ok::<_, CommandError>(looks.get())
        };
        let seen = until(None, Duration::ZERO, look, |seen| *seen == 3)
            .await
            .expect("seen");
        assert_eq!(seen, (3, true));
        let seen = until(Some(Duration::ZERO), Duration::ZERO, look, |_| false).await;
        assert_eq!(seen.expect("seen"), (4, false));
    }
}
