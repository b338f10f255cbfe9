//! Layers, mistakes and suggestions of a configuration.

use super::process::{KEYS, Process};
use super::*;

fn file(text: &str) -> Option<FileText> {
    Some(FileText {
        path: PathBuf::from("verdigris.toml"),
        text: text.to_owned(),
    })
}

fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

fn mistakes(sources: Sources) -> String {
    load(KEYS, sources).expect_err("it has mistakes").to_string()
}

#[test]
fn the_table_of_the_process_is_sound_and_its_defaults_make_a_process() {
    assert_eq!(table_mistakes(KEYS), Vec::<String>::new());
    let process = Process::of(&load(KEYS, Sources::default()).expect("defaults are valid")).expect("they fit");
    assert!(process.grpc.ip().is_loopback() && process.http.ip().is_loopback());
    assert_eq!(
        (process.concurrent_calls, process.insecure),
        (crate::serving::CONCURRENT_CALLS, false)
    );
    assert_eq!(process.drain.limit, Duration::from_secs(30));
}

#[test]
fn a_table_with_mistakes_is_found() {
    let key = |name, default, doc| Key {
        name,
        kind: Kind::Switch,
        default: Some(default),
        doc,
    };
    let keys = [
        key("a.b_c", "true", "x"),
        key("a.b.c", "perhaps", "x"),
        key("d", "false", ""),
    ];
    assert_eq!(table_mistakes(&keys).len(), 3);
}

#[test]
fn later_layers_win_and_each_value_says_where_it_comes_from() {
    let sources = Sources {
        file: file("[grpc]\naddress = \"127.0.0.1:1\"\nconcurrent_calls = 5\n\n[log]\nformat = \"json\"\n"),
        environment: environment(&[
            ("VERDIGRIS_GRPC_ADDRESS", "127.0.0.1:2"),
            ("VERDIGRIS_LOG_FORMAT", "text"),
            ("HOME", "x"),
        ]),
        flags: vec![Flag {
            flag: "--grpc",
            key: "grpc.address",
            text: "127.0.0.1:3".to_owned(),
        }],
        ..Sources::default()
    };
    let values = load(KEYS, sources).expect("valid");
    let check = |name: &str, value: &str, origin: &str| {
        let (_, found, from) = values.rows().find(|(key, ..)| *key == name).expect("there");
        assert_eq!(
            (found.map(Value::to_string).as_deref(), from.to_string().as_str()),
            (Some(value), origin)
        );
    };
    check("grpc.address", "127.0.0.1:3", "--grpc");
    check("log.format", "text", "VERDIGRIS_LOG_FORMAT");
    check("grpc.concurrent_calls", "5", "verdigris.toml:3");
    check("http.address", "127.0.0.1:7701", "default");
    assert_eq!(values.path("grpc.token_file"), None);
}

#[test]
fn all_mistakes_of_all_layers_are_told_at_once_with_place_and_suggestion() {
    let sources = Sources {
        file: file(
            "concurrent_calls = 5\n[grpc]\nadress = \"x\"\ninsecure = [true]\n[shutdown]\nlimit = 30\n[zebra]\nx = 1\n",
        ),
        environment: environment(&[
            ("VERDIGRIS_LOG_FORMT", "json"),
            ("VERDIGRIS_GRPC_CONCURRENT_CALLS", "0"),
        ]),
        flags: vec![Flag {
            flag: "--grpc",
            key: "grpc.address",
            text: "nowhere".to_owned(),
        }],
        ..Sources::default()
    };
    let text = mistakes(sources);
    for line in [
        "the configuration has 8 mistakes",
        "verdigris.toml:1: there is no key concurrent_calls; did you mean grpc.concurrent_calls?",
        "verdigris.toml:3: there is no key grpc.adress; did you mean grpc.address?",
        "verdigris.toml:4: grpc.insecure is a list, expected one value",
        "verdigris.toml:6: shutdown.limit is \"30\", expected a duration with its unit (us, ms, s, min, h, d) from 0 ns to 1 h",
        "verdigris.toml:7: there is no key zebra",
        "VERDIGRIS_LOG_FORMT: there is no key VERDIGRIS_LOG_FORMT; did you mean VERDIGRIS_LOG_FORMAT?",
        "VERDIGRIS_GRPC_CONCURRENT_CALLS: grpc.concurrent_calls is \"0\", expected a whole number from 1 to 10000",
        "--grpc: grpc.address is \"nowhere\", expected an address and port, such as 127.0.0.1:7700",
    ] {
        assert!(text.lines().any(|found| found.trim() == line), "{line}\nnot in\n{text}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_told_with_its_line_beside_other_mistakes() {
    let sources = Sources {
        file: file("[grpc]\naddress = \n"),
        environment: environment(&[("VERDIGRIS_GRPC_INSECURE", "yes")]),
        ..Sources::default()
    };
    let text = mistakes(sources);
    assert!(text.contains("verdigris.toml:2: not TOML: "), "{text}");
    assert!(
        text.contains("VERDIGRIS_GRPC_INSECURE: grpc.insecure is \"yes\", expected true or false"),
        "{text}"
    );
}

#[test]
fn variables_that_kubernetes_sets_for_services_are_no_mistakes_and_others_are() {
    let links = [
        ("VERDIGRIS_SERVICE_HOST", "10.0.0.1"),
        ("VERDIGRIS_SERVICE_PORT", "7700"),
        ("VERDIGRIS_SERVICE_PORT_GRPC", "7700"),
        ("VERDIGRIS_PORT", "tcp://10.0.0.1:7700"),
        ("VERDIGRIS_PORT_7700_TCP", "tcp://10.0.0.1:7700"),
        ("VERDIGRIS_PREVIEW_PORT_7700_TCP_ADDR", "10.0.0.1"),
    ];
    let sources = Sources {
        environment: environment(&links),
        ..Sources::default()
    };
    assert!(load(KEYS, sources).is_ok());
    let sources = Sources {
        environment: environment(&[("VERDIGRIS_PORT", "7700")]),
        ..Sources::default()
    };
    assert!(mistakes(sources).contains("there is no key VERDIGRIS_PORT"));
}

#[test]
fn variables_of_client_commands_are_passed_over_where_they_are_named() {
    let variables = environment(&[("VERDIGRIS_SERVER", "http://127.0.0.1:7700")]);
    let sources = Sources {
        environment: variables,
        other_variables: &["VERDIGRIS_SERVER"],
        ..Sources::default()
    };
    assert!(load(KEYS, sources).is_ok());
}

#[test]
fn the_reference_page_has_a_row_for_each_key() {
    let page = reference(KEYS);
    assert_eq!(page.lines().count(), KEYS.len() + 2);
    assert!(
        page.contains("| `shutdown.limit` | `VERDIGRIS_SHUTDOWN_LIMIT` | `30 s` | a duration with its unit"),
        "{page}"
    );
}
