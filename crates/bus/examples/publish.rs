//! How a catalog system publishes an event to the bus without any code of ours: `publish URL COLLECTION FILE`, where the
//! file has one JSON document or structured CloudEvent a line.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it tells its user where the events are")]

use std::error::Error;

use async_nats::HeaderMap;
use async_nats::jetstream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, collection, file] = arguments.as_slice() else {
        return Err("usage: publish URL COLLECTION FILE".into());
    };
    let stream = jetstream::new(async_nats::connect(url).await?);
    let text = std::fs::read_to_string(file)?;
    for line in text.lines() {
        let mut headers = HeaderMap::new();
        // The same text is the same event: sent again after a failure, it is stored once.
        headers.insert("Nats-Msg-Id", blake3::hash(line.as_bytes()).to_hex().as_str());
        let sent = stream
            .publish_with_headers(
                format!("verdigris.events.{collection}"),
                headers,
                line.to_owned().into(),
            )
            .await?;
        // Accepted is what was acknowledged. Many acknowledgements may be awaited together, by futures::future::join_all.
        let acknowledged = sent.await?;
        println!("{}", acknowledged.sequence);
    }
    Ok(())
}
