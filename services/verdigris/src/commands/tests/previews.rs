//! `search --lineage` and `search --compare` against a server that has two lineages, or one.

use serde_json::json;
use verdigris_proto::search::{Hit, Lineage, ReleaseInfo, SearchResponse};

use super::server::{Script, scripted};
use super::{folder, ran};

fn answer(lineage: &str, ids: &[&str]) -> SearchResponse {
    let hit = |id: &&str| Hit {
        id: (*id).to_owned(),
        document_json: format!("{{\"id\":\"{id}\"}}"),
        ..Hit::default()
    };
    SearchResponse {
        hits: ids.iter().map(hit).collect(),
        release: Some(ReleaseInfo {
            lineage: lineage.to_owned(),
            generation: 7,
            ..ReleaseInfo::default()
        }),
        ..SearchResponse::default()
    }
}

#[tokio::test]
async fn a_comparison_asks_both_lineages_the_same_thing() {
    let (client, script) = scripted(Script {
        search: answer("one", &["a", "b"]),
        other: Some(answer("two", &["b", "c"])),
        ..Script::default()
    })
    .await;
    let line = ["search", "drill", "--compare", "--top-k", "2", "--filter", "price < 5"];
    let ran = ran(&client, &folder(), &line).await;
    assert_eq!(ran.json["gone"], json!(["a"]));
    assert_eq!(ran.json["ranks"][0]["other"]["rank_there"], 2);
    let searched = script.searched.lock().expect("whole");
    let asked: Vec<Lineage> = searched.iter().map(|request| request.lineage()).collect();
    assert_eq!(asked, [Lineage::Active, Lineage::Other]);
    assert!(
        searched
            .iter()
            .all(|request| request.top_k == 2 && request.filter == "price < 5")
    );
}

#[tokio::test]
async fn both_are_asked_again_where_a_flip_came_between_the_two_questions() {
    let (client, script) = scripted(Script {
        search: answer("one", &["a"]),
        other: Some(answer("one", &["a"])),
        ..Script::default()
    })
    .await;
    ran(&client, &folder(), &["search", "drill", "--compare"]).await;
    assert_eq!(
        script.searched.lock().expect("whole").len(),
        6,
        "three tries, then what there is"
    );
}

#[tokio::test]
async fn without_another_lineage_a_preview_fails_with_its_reason() {
    let (client, _) = scripted(Script {
        search: answer("one", &["a"]),
        ..Script::default()
    })
    .await;
    for line in [
        &["search", "drill", "--lineage", "other"][..],
        &["search", "drill", "--compare"],
    ] {
        let error = ran(&client, &folder(), line)
            .await
            .exit
            .expect_err("there is one lineage");
        assert_eq!(error.reason(), "NO_OTHER_LINEAGE");
    }
    let one = ran(&client, &folder(), &["search", "drill", "--lineage", "active"]).await;
    assert_eq!(one.json["hits"][0]["id"], "a");
}
