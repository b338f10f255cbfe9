//! Metrics and health pages, through a real server on loopback.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use verdigris_runtime::http::{Readiness, bind, serve};
use verdigris_runtime::metrics::{RpcMetrics, registry};

/// The status line and the body of a page.
async fn get(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("the server listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[tokio::test]
async fn pages_tell_of_metrics_life_and_readiness_and_end_with_the_token() {
    let registry = registry().expect("registered");
    RpcMetrics::register(&registry).expect("registered");
    let readiness = Readiness::default();
    let listener = bind("127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("bound");
    let token = CancellationToken::new();
    let server = tokio::spawn(serve(listener, registry, readiness.clone(), token.clone()));

    let ok = "HTTP/1.1 200 OK".to_owned();
    assert_eq!(get(address, "/healthz").await, (ok.clone(), "ok\n".to_owned()));
    assert_eq!(get(address, "/readyz").await, (ok.clone(), "ready\n".to_owned()));
    readiness.not_ready("search", "no release is loaded");
    readiness.not_ready("embedder", "the model is missing");
    let unready = "HTTP/1.1 503 Service Unavailable".to_owned();
    let reasons = "embedder: the model is missing\nsearch: no release is loaded\n".to_owned();
    assert_eq!(get(address, "/readyz").await, (unready, reasons));
    assert_eq!(get(address, "/healthz").await.0, ok, "a process that waits is alive");

    let (status, page) = get(address, "/metrics").await;
    assert_eq!(status, ok);
    check_exposition(&page);
    for name in [
        "process_resident_memory_bytes",
        "verdigris_rpc_connections",
        "verdigris_rpc_shed_total",
    ] {
        assert!(page.contains(&format!("# TYPE {name} ")), "{name} not in\n{page}");
    }
    token.cancel();
    server.await.expect("no panic").expect("served");
}

/// Every line of the page is a comment or `name{labels} number`, and every name has its kind before it.
fn check_exposition(page: &str) {
    let mut kinds = std::collections::BTreeSet::new();
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            assert!(words.len() == 3 && ["HELP", "TYPE"].contains(&words[0]), "{line}");
            if words[0] == "TYPE" {
                assert!(kinds.insert(words[1].to_owned()), "{line} twice");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().expect("a name");
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        assert!(kinds.contains(family) || kinds.contains(name), "{line} has no kind");
    }
    assert!(kinds.len() > 5);
}
