//! Resync as a client of the API may get it wrong: half a feed, a refused document. The command checks its file before
//! it sends anything; here is what the server does without it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use tonic::{Code, Status};
use verdigris_proto::admin::admin_service_client::AdminServiceClient;
use verdigris_proto::admin::{ResyncRequest, ResyncResponse};
use verdigris_tests::process::{Folder, Server};

const CATALOG: &str = concat!(
    "{\"id\":\"a\",\"title\":\"cordless drill\"}\n",
    "{\"id\":\"b\",\"title\":\"garden hose\"}\n",
    "{\"id\":\"c\",\"title\":\"desk lamp\"}\n",
);

fn started() -> (Folder, Server) {
    let folder = Folder::new();
    let server = folder.up();
    folder.create_collection();
    let file = folder.file("catalog.jsonl", CATALOG);
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    (folder, server)
}

fn feed(documents: &[&str], complete: bool) -> ResyncRequest {
    ResyncRequest {
        collection: "products".to_owned(),
        documents: documents.iter().map(|text| text.as_bytes().to_vec().into()).collect(),
        complete,
        ..ResyncRequest::default()
    }
}

async fn resync(server: &Server, request: ResyncRequest) -> Result<ResyncResponse, Status> {
    let mut client = AdminServiceClient::connect(server.url.clone()).await.unwrap();
    let answer = client.resync(tokio_stream::iter([request])).await?;
    Ok(answer.into_inner())
}

fn is_there(folder: &Folder, id: &str) -> bool {
    // A delete that changes nothing, so that everything sent before it is in the answers.
    let _told = folder.run(&["delete", "nobody", "--wait"]).with_code(0);
    folder.run(&["get", id]).code == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_ends_without_its_last_message_deletes_nothing() {
    let (folder, server) = started();
    let half = resync(&server, feed(&[r#"{"id":"a","title":"drill"}"#], false)).await;
    let refused = half.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("nothing was deleted"), "{refused}");
    assert!(is_there(&folder, "b") && is_there(&folder, "c"));
    let whole = resync(&server, feed(&[r#"{"id":"a","title":"drill"}"#], true))
        .await
        .unwrap();
    assert_eq!((whole.accepted, whole.deleted), (3, 2));
    assert!(is_there(&folder, "a") && !is_there(&folder, "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_refused_is_not_taken_for_missing() {
    let (folder, server) = started();
    let documents = [
        r#"{"id":"a","title":"drill"}"#,
        r#"{"id":"b","title":"x","_time":"never"}"#,
        r#"{"id":"c","title":"y","_vector":[1]}"#,
    ];
    let answer = resync(&server, feed(&documents, true)).await.unwrap();
    let places: Vec<u64> = answer.rejections.iter().map(|refused| refused.index).collect();
    assert_eq!(
        (answer.deleted, answer.rejected, places),
        (0, 2, vec![1, 2]),
        "{answer:?}"
    );
    assert!(is_there(&folder, "b") && is_there(&folder, "c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_with_a_document_without_a_readable_id_deletes_nothing() {
    let (folder, server) = started();
    let refused = resync(&server, feed(&[r#"{"id":"a"}"#, r#"{"id":"#], true))
        .await
        .unwrap_err();
    assert!(refused.message().contains("nothing was deleted"), "{refused}");
    assert!(is_there(&folder, "b"));
}
