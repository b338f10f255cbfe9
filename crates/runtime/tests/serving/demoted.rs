//! A demoted server: connections of real clients under load go, and no call fails for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::transport::Channel;
use verdigris_runtime::demotion::GO_WITHIN;
use verdigris_runtime::listening::Farewell;

use super::message;
use super::pair::{Pair, Setup, call};

const CLIENTS: usize = 16;
const HOUR: Duration = Duration::from_secs(3_600);

/// Calls until there is an answer. A call whose connection is told to go at that moment never leaves its client, and
/// clients of gRPC make it again by themselves ("transparent retry"); tonic's does not. Whether any did leave is seen on
/// the server: it has answered as many as its clients have answers.
async fn echo(channel: &Channel, text: &str) -> String {
    loop {
        if let Ok(answer) = call(channel.clone(), "Echo".to_owned(), message(text)).await {
            return answer;
        }
    }
}

/// Clients that call one after the other until they are told to stop; each tells how many calls were answered.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u64>>,
}

impl Load {
    async fn on(pair: &Pair) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let endpoint = Channel::from_shared(format!("http://{}", pair.address)).expect("a URL");
            let channel = endpoint.connect().await.expect("the server listens");
            let stop = stop.clone();
            clients.push(tokio::spawn(async move {
                let mut answered = 0;
                while !stop.load(Ordering::SeqCst) {
                    let text = format!("{client}/{answered}");
                    assert_eq!(echo(&channel, &text).await, text);
                    answered += 1;
                }
                answered
            }));
        }
        Self { stop, clients }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut answered = 0;
        for client in self.clients {
            answered += client.await.expect("no call failed");
        }
        answered
    }
}

/// A connection that does not come back by itself; it ends when its server ends it.
async fn connection(pair: &Pair) -> JoinHandle<()> {
    let stream = tokio::net::TcpStream::connect(pair.address)
        .await
        .expect("the server listens");
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake::<_, _, tonic::body::Body>(executor, io)
        .await
        .expect("HTTP/2");
    tokio::spawn(async move {
        let _sender = sender;
        connection.await.expect("a connection that is told to go ends well");
    })
}

// Goal: every connection goes, those that were open before and those that come, and no call of any of them fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_server_tells_each_connection_to_go_and_answers_what_comes() {
    let pair = Pair::new(Setup::default()).await;
    let load = Load::on(&pair).await;
    let old = connection(&pair).await;
    let open = CLIENTS as u64 + 2;
    while pair.demotion.connections() < open {
        tokio::task::yield_now().await;
    }
    pair.demotion.demote(HOUR, 1.0);
    let new = connection(&pair).await;
    old.await.expect("no panic");
    new.await.expect("no panic");
    // Twice as many as there were: clients that came back were told again.
    while pair.demotion.told_to_go() < 2 * open {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answered = load.end().await;
    assert!(pair.demotion.is_demoted() && answered > 0);
    let metrics = pair.metrics();
    let calls: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("verdigris_rpc_requests_total") && line.contains("Echo"))
        .collect();
    let all_answered = format!("verdigris_rpc_requests_total{{code=\"OK\",method=\"/test.v1.Test/Echo\"}} {answered}");
    assert_eq!(calls, [all_answered]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_by_and_by_lets_its_clients_go_without_a_failed_call() {
    let pair = Pair::new(Setup {
        farewell: Farewell::Spread,
        ..Setup::default()
    })
    .await;
    let old = connection(&pair).await;
    while pair.demotion.connections() < 2 {
        tokio::task::yield_now().await;
    }
    pair.token.cancel();
    // Calls of a client that stays are answered until it is told to go.
    assert_eq!(
        pair.call("Echo", message("still there")).await,
        Ok("still there".to_owned())
    );
    old.await.expect("no panic");
    let drained = pair.server.await.expect("no panic");
    assert_eq!(drained.cut, 0);
    assert!(pair.demotion.told_to_go() >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_connections_ends_at_once() {
    let pair = Pair::new(Setup {
        farewell: Farewell::Spread,
        ..Setup::default()
    })
    .await;
    drop(pair.channel);
    while pair.demotion.connections() > 0 {
        tokio::task::yield_now().await;
    }
    let began = tokio::time::Instant::now();
    pair.token.cancel();
    pair.server.await.expect("no panic");
    assert!(began.elapsed() < GO_WITHIN.0);
}
