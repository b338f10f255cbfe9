//! Calls that change nothing, made again where the server or the way to it was away for a moment.
//!
//! A server that ends or is demoted tells its connections to go. A call that meets that moment never leaves its client,
//! or finds nobody; clients of gRPC make it again by themselves, tonic's does not.

use std::error::Error;
use std::time::Duration;

use tonic::transport;
use tonic::{Code, Response, Status, TimeoutExpired};
use verdigris_runtime::backoff::Backoff;

/// The first pause before a call is made again.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often it is: four tries in all, as gRPC's standard policy has it.
const AGAIN: u32 = 3;

/// Makes a call until it is answered, or fails for another reason than that nobody was there.
pub(crate) async fn read<T>(mut call: impl AsyncFnMut() -> Result<Response<T>, Status>) -> Result<T, Status> {
    let mut backoff = Backoff::new(PAUSE, PAUSE_MAX, AGAIN);
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        match backoff.pause(rand::random(), None) {
            Some(pause) if passes(&status) => tokio::time::sleep(pause).await,
            _ => return Err(status),
        }
    }
}

/// Nobody was there, or the connection broke. A deadline that passed would pass again.
fn passes(status: &Status) -> bool {
    if status.code() == Code::Unavailable {
        return true;
    }
    let (mut broke, mut cause) = (false, status.source());
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return false;
        }
        broke |= error.is::<transport::Error>();
        cause = error.source();
    }
    broke
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn calls(answers: &[Result<u32, Code>]) -> (Result<u32, Code>, usize) {
        let mut made = 0;
        let told = read(async || {
            made += 1;
            let answer = answers[made - 1].map(Response::new);
            answer.map_err(|code| Status::new(code, "told by a server"))
        })
        .await;
        (told.map_err(|status| status.code()), made)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_nobody_answered_is_made_again_a_few_times() {
        let away = Err(Code::Unavailable);
        assert_eq!(calls(&[Ok(1)]).await, (Ok(1), 1));
        assert_eq!(calls(&[away, away, Ok(2)]).await, (Ok(2), 3));
        assert_eq!(calls(&[away; 9]).await, (away, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_answered_is_not_asked_again() {
        for code in [Code::NotFound, Code::Internal, Code::Cancelled, Code::DeadlineExceeded] {
            assert_eq!(calls(&[Err(code), Ok(1)]).await, (Err(code), 1));
        }
    }

    // A server that tells the connection to go while the call is under way, and one that answers on the next.
    #[tokio::test]
    async fn a_call_whose_connection_ended_under_it_is_made_again() {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let serving = tokio::spawn(async move {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.expect("a client");
                // As far as the request, and no further.
                let mut bytes = [0; 64];
                let _ = stream.read(&mut bytes).await;
            }
        });
        let channel = transport::Endpoint::from_shared(url)
            .expect("an address")
            .connect_lazy();
        let mut service = verdigris_proto::search::search_service_client::SearchServiceClient::new(channel);
        let mut made = 0;
        let told = read(async || {
            made += 1;
            match made {
                3 => Ok(Response::new(())),
                _ => service
                    .search(verdigris_proto::search::SearchRequest::default())
                    .await
                    .map(|_| Response::new(())),
            }
        })
        .await;
        assert!(told.is_ok() && made == 3, "{told:?} after {made}");
        serving.await.expect("served");
    }
}
