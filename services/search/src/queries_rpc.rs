//! The gRPC service of golden queries and of the sample of asked ones.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use verdigris_core::names::CollectionName;
use verdigris_core::queries::golden::{self, GoldenMistake, GoldenQuery};
use verdigris_engine::filter::Filter;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::query_service_server::QueryService;
use verdigris_proto::search::{
    ClearGoldenQueriesRequest, ClearGoldenQueriesResponse, ClearQueryLogRequest, ClearQueryLogResponse,
    GetGoldenQueriesRequest, GetGoldenQueriesResponse, GetQueryLogRequest, GetQueryLogResponse, LoggedQuery,
    SetGoldenQueriesRequest, SetGoldenQueriesResponse,
};

use crate::Search;
use crate::answer::{chain, reason_of_read, status_of_unknown};
use crate::golden::GoldenError;
use crate::usage::InUse;

/// Logged queries of an answer by default, and at most.
const LOGGED: (u32, u32) = (100, 10_000);
/// Mistakes that a message names; a file of the wrong form has one in each line.
const MISTAKES_TOLD: usize = 20;

/// The gRPC service.
pub struct QueryRpc {
    search: Arc<Search>,
}

impl QueryRpc {
    /// The service over the role.
    pub fn new(search: Arc<Search>) -> Self {
        Self { search }
    }

    /// The collection, if there is such a collection: it stays open while its sample is looked at.
    async fn named(&self, collection: &str) -> Result<InUse, Status> {
        let name: CollectionName = collection
            .parse()
            .map_err(|error| Reason::InvalidCollection.status_for_field("collection", format!("{error}")))?;
        let followed = self.search.collection(&name).await;
        followed.map_err(|error| status_of_unknown(&name, &error))
    }

    async fn put(&self, name: &CollectionName, queries: &[GoldenQuery]) -> Result<u64, Status> {
        let written = crate::golden::write(&*self.search.deps.store, name, queries).await;
        written.map_err(|error| of_golden(&error))
    }
}

fn of_golden(error: &GoldenError) -> Status {
    let reason = match error {
        GoldenError::Read(error) => reason_of_read(error),
        GoldenError::Damaged { .. } => Reason::DataDamaged,
    };
    reason.status(chain(error))
}

/// Reads a golden file. All mistakes are told at once, those of filters as well.
fn parse(content: &[u8]) -> Result<Vec<GoldenQuery>, Status> {
    let wrong = |lines: Vec<String>| {
        let more = lines.len().saturating_sub(MISTAKES_TOLD);
        let mut message = lines[..lines.len().min(MISTAKES_TOLD)].join("\n");
        if more > 0 {
            message.push_str(&format!("\nand {more} more"));
        }
        Reason::InvalidQueries.status_for_field("content", message)
    };
    let told = |mistake: &GoldenMistake| match mistake.line {
        0 => mistake.mistake.to_string(),
        _ => mistake.to_string(),
    };
    let queries = golden::parse(content).map_err(|mistakes| wrong(mistakes.iter().map(told).collect()))?;
    let filters = queries.iter().filter(|query| !query.filter.trim().is_empty());
    let mistake = |query: &GoldenQuery| {
        let error = Filter::parse(&query.filter).err()?;
        Some(format!("query {:?}: its filter: {error}", query.text))
    };
    let mistakes: Vec<String> = filters.filter_map(mistake).collect();
    if mistakes.is_empty() {
        Ok(queries)
    } else {
        Err(wrong(mistakes))
    }
}

#[tonic::async_trait]
impl QueryService for QueryRpc {
    async fn set_golden_queries(
        &self,
        request: Request<SetGoldenQueriesRequest>,
    ) -> Result<Response<SetGoldenQueriesResponse>, Status> {
        let request = request.into_inner();
        let followed = self.named(&request.collection).await?;
        let queries = parse(&request.content)?;
        let version = self.put(&followed.name, &queries).await?;
        Ok(Response::new(SetGoldenQueriesResponse {
            version,
            queries: queries.len() as u32,
        }))
    }

    async fn get_golden_queries(
        &self,
        request: Request<GetGoldenQueriesRequest>,
    ) -> Result<Response<GetGoldenQueriesResponse>, Status> {
        let followed = self.named(&request.into_inner().collection).await?;
        let golden = crate::golden::read(&*self.search.deps.store, &followed.name).await;
        let golden = golden.map_err(|error| of_golden(&error))?;
        Ok(Response::new(GetGoldenQueriesResponse {
            version: golden.version,
            queries: golden.queries.len() as u32,
            content: golden::encode(&golden.queries).into(),
        }))
    }

    async fn clear_golden_queries(
        &self,
        request: Request<ClearGoldenQueriesRequest>,
    ) -> Result<Response<ClearGoldenQueriesResponse>, Status> {
        let followed = self.named(&request.into_inner().collection).await?;
        let before = crate::golden::read(&*self.search.deps.store, &followed.name).await;
        // Damaged ones are taken away as well: that is how a person gets rid of them.
        let removed = before.map_or(0, |golden| golden.queries.len() as u32);
        let version = self.put(&followed.name, &[]).await?;
        Ok(Response::new(ClearGoldenQueriesResponse { version, removed }))
    }

    async fn get_query_log(
        &self,
        request: Request<GetQueryLogRequest>,
    ) -> Result<Response<GetQueryLogResponse>, Status> {
        let request = request.into_inner();
        let followed = self.named(&request.collection).await?;
        let limit = match request.limit {
            0 => LOGGED.0,
            limit if limit > LOGGED.1 => {
                let message = format!("limit is {limit}; at most {} queries are answered", LOGGED.1);
                return Err(Reason::InvalidArgument.status_for_field("limit", message));
            }
            limit => limit,
        };
        let facts = self.search.log.facts(&followed.name);
        let queries = self.search.log.some(&followed.name, limit as usize);
        let logged = |query: verdigris_core::queries::LoggedQuery| LoggedQuery {
            text: query.text,
            filter: query.filter,
        };
        Ok(Response::new(GetQueryLogResponse {
            queries: queries.into_iter().map(logged).collect(),
            kept: facts.kept,
            kept_max: facts.settings.kept,
            enabled: facts.settings.log,
        }))
    }

    async fn clear_query_log(
        &self,
        request: Request<ClearQueryLogRequest>,
    ) -> Result<Response<ClearQueryLogResponse>, Status> {
        let followed = self.named(&request.into_inner().collection).await?;
        let removed = self.search.log.delete(&followed.name, |_| true).await;
        let unwritable = |error: std::io::Error| Reason::ReadOnly.status(format!("the sample's file: {error}"));
        Ok(Response::new(ClearQueryLogResponse {
            removed: removed.map_err(unwritable)? as u32,
        }))
    }
}
