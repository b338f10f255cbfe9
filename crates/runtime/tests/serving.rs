//! The guard and the listener, through a real server and client on loopback.

#[path = "serving/demoted.rs"]
mod demoted;
#[path = "serving/encrypted.rs"]
mod encrypted;
mod pair;

use std::time::Duration;

use pair::{Pair, Setup, call, call_untimed, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use verdigris_runtime::authentication::Tokens;
use verdigris_runtime::busy_poll::BusyPoll;

fn message(text: &str) -> Request<String> {
    Request::new(text.to_owned())
}

fn with_token(text: &str, token: &str) -> Request<String> {
    let mut request = message(text);
    request
        .metadata_mut()
        .insert("authorization", token.parse().expect("ASCII"));
    request
}

fn with_timeout(timeout: &str) -> Request<String> {
    let mut request = message("x");
    request
        .metadata_mut()
        .insert("grpc-timeout", timeout.parse().expect("ASCII"));
    request
}

#[tokio::test]
async fn a_call_is_answered_and_counted_by_method_and_code() {
    let pair = Pair::new(Setup::default()).await;
    assert_eq!(pair.call("Echo", message("hello")).await, Ok("hello".to_owned()));
    let metrics = pair.metrics();
    for line in [
        "verdigris_rpc_requests_total{code=\"OK\",method=\"/test.v1.Test/Echo\"} 1",
        "verdigris_rpc_duration_seconds_count{method=\"/test.v1.Test/Echo\"} 1",
        "verdigris_rpc_in_flight{scope=\"read\"} 0",
        "verdigris_rpc_connections 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\nnot in\n{metrics}");
    }
}

// Every pair of token and method, on a server with a token for each scope.
#[tokio::test]
async fn each_call_with_the_wrong_token_or_none_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tokens");
    std::fs::write(
        &path,
        "read read-0123456789abcdef\ningest ingest-0123456789abcdef\nadmin admin-0123456789abcdef\n",
    )
    .expect("writable");
    let pair = Pair::new(Setup {
        tokens: Tokens::read(&path).expect("valid"),
        ..Setup::default()
    })
    .await;
    let tokens = [
        "",
        "Bearer",
        "Bearer ",
        "Bearer read-0123456789abcdeX",
        "Bearer read-0123456789abcde",
        "Basic read-0123456789abcdef",
        "read-0123456789abcdef",
        "Bearer read-0123456789abcdef",
        "Bearer ingest-0123456789abcdef",
        "Bearer admin-0123456789abcdef",
    ];
    let mut refused = 0;
    for token in tokens {
        // Echo needs read, Count ingest; an unknown method needs admin, so that a forgotten one is closed.
        for (method, scope) in [("Echo", "read"), ("Count", "ingest"), ("Forgotten", "admin")] {
            let code = pair
                .call(method, with_token("x", token))
                .await
                .map_or_else(|(code, _)| code, |_| Code::Ok);
            let known = token
                .strip_prefix("Bearer ")
                .and_then(|token| token.strip_suffix("-0123456789abcdef"));
            let expected = match known {
                None => Code::Unauthenticated,
                Some(name) if name != scope => Code::PermissionDenied,
                Some(_) if method == "Forgotten" => Code::Unimplemented,
                Some(_) => Code::Ok,
            };
            assert_eq!(code, expected, "{method} with {token:?}");
            refused += usize::from(expected != Code::Ok);
        }
    }
    assert_eq!(refused, 28);
    let metrics = pair.metrics();
    assert!(
        !metrics.contains("Forgotten") && metrics.contains("method=\"other\""),
        "{metrics}"
    );
}

#[tokio::test]
async fn health_and_reflection_need_no_token() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tokens");
    std::fs::write(&path, "admin admin-0123456789abcdef\n").expect("writable");
    let pair = Pair::new(Setup {
        tokens: Tokens::read(&path).expect("valid"),
        ..Setup::default()
    })
    .await;
    let mut health = HealthClient::new(pair.channel.clone());
    assert!(health.check(HealthCheckRequest::default()).await.is_ok());
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(pair.channel.clone());
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    // It is made at the first call, and the second is answered by the same.
    for _ in 0..2 {
        let answers = reflection
            .server_reflection_info(tokio_stream::once(request.clone()))
            .await
            .expect("answered");
        let answer = answers.into_inner().next().await.expect("one").expect("no error");
        assert!(format!("{answer:?}").contains("grpc.health.v1.Health"), "{answer:?}");
    }
    let mut older =
        tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient::new(pair.channel.clone());
    let request = tonic_reflection::pb::v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let answers = older
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("answered");
    let answer = answers.into_inner().next().await.expect("one").expect("no error");
    assert!(format!("{answer:?}").contains("grpc.health.v1.Health"), "{answer:?}");
}

// I-20: what is above the limit is refused at once with a hint, other scopes go on, and all is well right after.
#[tokio::test]
async fn calls_above_the_limit_are_shed_with_a_hint_and_the_server_recovers() {
    let mut pair = Pair::new(Setup {
        concurrent_calls: 2,
        ..Setup::default()
    })
    .await;
    let first = pair.begin_waiting().await;
    let second = pair.begin_waiting().await;
    for _ in 0..50 {
        let (code, text) = pair.call("Echo", message("x")).await.expect_err("shed");
        assert_eq!((code, text.as_str()), (Code::ResourceExhausted, "try again in 200ms"));
    }
    let (sender, messages) = mpsc::channel(1);
    sender.send("event".to_owned()).await.expect("open");
    drop(sender);
    assert_eq!(stream(pair.channel.clone(), messages).await, Ok("1".to_owned()));
    pair.inside.go_on.notify_waiters();
    assert_eq!(first.await.expect("no panic"), Ok("waited".to_owned()));
    assert_eq!(second.await.expect("no panic"), Ok("waited".to_owned()));
    assert_eq!(pair.call("Echo", message("again")).await, Ok("again".to_owned()));
    let metrics = pair.metrics();
    assert!(
        metrics.contains("verdigris_rpc_shed_total{scope=\"read\"} 50"),
        "{metrics}"
    );
    assert!(
        metrics.contains("verdigris_rpc_in_flight{scope=\"read\"} 0"),
        "{metrics}"
    );
}

// The task that looks must let everything else run, and must not keep the server from its end.
#[tokio::test]
async fn a_server_that_busy_polls_answers_and_ends_as_any_other() {
    let pair = Pair::new(Setup {
        busy_poll: BusyPoll::new(Duration::from_millis(10)),
        ..Setup::default()
    })
    .await;
    for n in 0..50 {
        assert_eq!(pair.call("Echo", message(&n.to_string())).await, Ok(n.to_string()));
    }
    pair.token.cancel();
    assert_eq!(pair.server.await.expect("no panic").cut, 0);
}

#[tokio::test]
async fn a_call_whose_client_goes_away_gives_its_place_to_others() {
    let mut pair = Pair::new(Setup {
        concurrent_calls: 1,
        ..Setup::default()
    })
    .await;
    let waiting = pair.begin_waiting().await;
    waiting.abort();
    // The reset takes its way through the connection; each refused call is one more look.
    let mut last = pair.call("Echo", message("x")).await;
    while matches!(last, Err((Code::ResourceExhausted, _))) {
        last = pair.call("Echo", message("x")).await;
    }
    assert_eq!(last, Ok("x".to_owned()));
    assert!(
        pair.metrics()
            .contains("verdigris_rpc_requests_total{code=\"CANCELLED\",method=\"/test.v1.Test/Wait\"} 1")
    );
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_frees_its_place() {
    let pair = Pair::new(Setup {
        concurrent_calls: 1,
        ..Setup::default()
    })
    .await;
    let ended = call_untimed(pair.address, "Wait", with_timeout("20m")).await;
    assert_eq!(ended, Err((Code::DeadlineExceeded, "ended by the guard".to_owned())));
    assert_eq!(pair.call("Echo", message("x")).await, Ok("x".to_owned()));
}

#[tokio::test]
async fn a_handler_that_waits_can_give_its_own_reason_before_the_deadline() {
    let pair = Pair::new(Setup::default()).await;
    let ended = pair.call("Late", with_timeout("1S")).await;
    assert_eq!(ended, Err((Code::DeadlineExceeded, "told by the handler".to_owned())));
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_server_goes_on() {
    let pair = Pair::new(Setup {
        concurrent_calls: 1,
        ..Setup::default()
    })
    .await;
    assert_eq!(
        pair.call("Panic", message("x")).await,
        Err((Code::Internal, "panicked".to_owned()))
    );
    assert_eq!(pair.call("Echo", message("x")).await, Ok("x".to_owned()));
    assert!(
        pair.metrics()
            .contains("verdigris_rpc_requests_total{code=\"INTERNAL\",method=\"/test.v1.Test/Panic\"} 1")
    );
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_with_that_reason() {
    let pair = Pair::new(Setup::default()).await;
    let refused = pair.call("Echo", message(&"x".repeat(2 << 10))).await;
    assert_eq!(refused, Err((Code::InvalidArgument, "too large".to_owned())));
}

#[tokio::test]
async fn health_follows_readiness() {
    let pair = Pair::new(Setup::default()).await;
    let mut health = HealthClient::new(pair.channel.clone());
    let watched = health.watch(HealthCheckRequest::default()).await.expect("answered");
    let mut statuses = watched.into_inner().map(|status| status.expect("no error").status());
    assert_eq!(statuses.next().await, Some(ServingStatus::Serving));
    pair.readiness.not_ready("search", "no release is loaded");
    assert_eq!(statuses.next().await, Some(ServingStatus::NotServing));
    pair.readiness.ready("search");
    assert_eq!(statuses.next().await, Some(ServingStatus::Serving));
}

#[tokio::test]
async fn a_drain_lets_an_open_stream_finish_refuses_new_connections_and_says_it_is_not_ready() {
    let mut pair = Pair::new(Setup::default()).await;
    let (sender, messages) = mpsc::channel(1);
    let open = tokio::spawn(stream(pair.channel.clone(), messages));
    sender.send("before".to_owned()).await.expect("open");
    pair.began.recv().await.expect("the service lives");
    let mut not_ready = pair.readiness.watch();
    pair.token.cancel();
    not_ready.wait_for(|reasons| !reasons.is_empty()).await.expect("told");
    assert_eq!(pair.readiness.reasons()["server"], "shutting down");
    // The listener is gone soon after; until then a connection may still be accepted.
    let endpoint = Channel::from_shared(format!("http://{}", pair.address)).expect("a URL");
    while endpoint.connect().await.is_ok() {}
    sender.send("during".to_owned()).await.expect("open");
    pair.began.recv().await.expect("the service lives");
    assert!(!pair.server.is_finished());
    drop(sender);
    assert_eq!(open.await.expect("no panic"), Ok("2".to_owned()));
    let drained = pair.server.await.expect("no panic");
    assert_eq!(drained.cut, 0);
    assert!(drained.connections >= 1);
}

#[tokio::test]
async fn a_drain_cuts_what_does_not_finish_within_its_limit() {
    let mut pair = Pair::new(Setup {
        limit: Duration::from_millis(20),
        ..Setup::default()
    })
    .await;
    let waiting = pair.begin_waiting().await;
    pair.token.cancel();
    let drained = pair.server.await.expect("no panic");
    assert_eq!((drained.connections, drained.cut), (1, 1));
    assert!(waiting.await.expect("no panic").is_err());
}

#[tokio::test]
async fn a_watch_of_health_does_not_hold_up_a_drain() {
    let pair = Pair::new(Setup::default()).await;
    let mut health = HealthClient::new(pair.channel.clone());
    let mut statuses = health
        .watch(HealthCheckRequest::default())
        .await
        .expect("answered")
        .into_inner();
    assert_eq!(
        statuses.next().await.expect("one").expect("no error").status(),
        ServingStatus::Serving
    );
    pair.token.cancel();
    let rest: Vec<_> = statuses
        .map(|status| status.expect("no error").status())
        .collect()
        .await;
    assert_eq!(rest.last(), Some(&ServingStatus::NotServing));
    assert_eq!(pair.server.await.expect("no panic").cut, 0);
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_a_drain() {
    let pair = Pair::new(Setup::default()).await;
    let idle = tokio::net::TcpStream::connect(pair.address)
        .await
        .expect("the server listens");
    // The idle connection must have been accepted, or it is not what is tested.
    while !pair.metrics().contains("verdigris_rpc_connections 2") {
        tokio::task::yield_now().await;
    }
    pair.token.cancel();
    let drained = pair.server.await.expect("no panic");
    assert_eq!((drained.connections, drained.cut), (2, 0));
    drop(idle);
}

#[tokio::test]
async fn a_client_of_another_protocol_is_hung_up_on() {
    let pair = Pair::new(Setup::default()).await;
    let mut stream = tokio::net::TcpStream::connect(pair.address)
        .await
        .expect("the server listens");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = Vec::new();
    // Closed or reset, as the system likes: the server has not read what was sent.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
}

#[tokio::test]
async fn a_server_whose_future_is_dropped_ends_its_connections() {
    let mut pair = Pair::new(Setup::default()).await;
    let waiting = pair.begin_waiting().await;
    pair.server.abort();
    assert!(waiting.await.expect("no panic").is_err());
}

#[tokio::test]
async fn a_taken_port_is_told_with_what_to_do() {
    let pair = Pair::new(Setup::default()).await;
    let error = verdigris_runtime::http::bind(pair.address).await.expect_err("taken");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {}: the port is taken; choose another, or port 0 for a free one",
            pair.address
        )
    );
}

#[tokio::test]
async fn many_clients_at_once_are_answered_or_shed_and_nothing_else() {
    let pair = Pair::new(Setup {
        concurrent_calls: 4,
        ..Setup::default()
    })
    .await;
    let calls: Vec<_> = (0..500)
        .map(|n| tokio::spawn(call(pair.channel.clone(), "Echo".to_owned(), message(&n.to_string()))))
        .collect();
    let mut answered = 0;
    for (n, answer) in calls.into_iter().enumerate() {
        match answer.await.expect("no panic") {
            Ok(text) => {
                assert_eq!(text, n.to_string());
                answered += 1;
            }
            Err((code, _)) => assert_eq!(code, Code::ResourceExhausted),
        }
    }
    assert!(answered > 0);
    assert!(pair.metrics().contains("verdigris_rpc_in_flight{scope=\"read\"} 0"));
}
