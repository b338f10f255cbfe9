//! Every reason has its page under `docs/errors/`, with its code, and every page its reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use verdigris_proto::reason::Reason;

/// Reasons that only the command line has: no server tells them.
const OF_THE_COMMAND_LINE: [&str; 6] = [
    "ADDRESS_UNAVAILABLE.md",
    "FILE_UNREADABLE.md",
    "FILE_UNWRITABLE.md",
    "FOLDER_IN_USE.md",
    "INVALID_CONFIGURATION.md",
    "SERVER_UNREACHABLE.md",
];

#[test]
fn every_reason_has_a_page_and_every_page_a_reason() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
    let pages: BTreeSet<String> = fs::read_dir(&folder)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "README.md" && !OF_THE_COMMAND_LINE.contains(&name.as_str()))
        .collect();
    let reasons: BTreeSet<String> = Reason::ALL
        .iter()
        .map(|reason| format!("{}.md", reason.as_str()))
        .collect();
    assert_eq!(pages, reasons);
    let overview = fs::read_to_string(folder.join("README.md")).expect("readable");
    for reason in Reason::ALL {
        let name = reason.as_str();
        let page = fs::read_to_string(folder.join(format!("{name}.md"))).expect("readable");
        let code = code_name(*reason);
        for part in [
            format!("# {name}\n"),
            format!("gRPC code: `{code}`"),
            "## What\n".into(),
            "## Why\n".into(),
            "## What to do\n".into(),
        ] {
            assert!(page.contains(&part), "{name}.md lacks {part:?}");
        }
        assert!(
            overview.contains(&format!("| [{name}]({name}.md) | `{code}` |")),
            "README.md lacks {name}"
        );
    }
}

/// The code as gRPC writes it.
fn code_name(reason: Reason) -> String {
    let camel = format!("{:?}", reason.code());
    let mut name = String::new();
    for letter in camel.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
