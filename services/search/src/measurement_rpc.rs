//! The gRPC service that measures lineages for whoever judges them.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use verdigris_core::gates::Measurements;
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::measurement_service_server::MeasurementService;
use verdigris_proto::search::{MeasureRequest, MeasureResponse};

use crate::Search;
use crate::answer::status_of_unknown;
use crate::measure::{self, Wanted};
use crate::tenants;

/// The gRPC service.
pub struct MeasurementRpc {
    search: Arc<Search>,
}

impl MeasurementRpc {
    /// The service over the role.
    pub fn new(search: Arc<Search>) -> Self {
        Self { search }
    }
}

impl Search {
    /// Measures a lineage of a collection, the other one where none is named, beside the active one. Fails with
    /// NOT_READY where its release of at least this generation is not open yet; one that cannot be opened is measured
    /// as far as that goes.
    ///
    /// # Errors
    /// A status with its reason, as a call has it.
    pub async fn measure(
        self: &Arc<Self>,
        name: &CollectionName,
        lineage: Option<LineageId>,
        generation: u64,
    ) -> Result<Measurements, Status> {
        let followed = self.collection(name).await;
        let followed = followed.map_err(|error| status_of_unknown(name, &error))?;
        let wanted = Wanted { lineage, generation };
        if tenants::is_for_tenants(self) {
            tenants::both_opened(&followed).await;
        }
        measure::measure(self, &followed, &wanted).await
    }
}

#[tonic::async_trait]
impl MeasurementService for MeasurementRpc {
    async fn measure(&self, request: Request<MeasureRequest>) -> Result<Response<MeasureResponse>, Status> {
        let request = request.into_inner();
        let name: CollectionName = request
            .collection
            .parse()
            .map_err(|error| Reason::InvalidCollection.status_for_field("collection", format!("{error}")))?;
        let lineage = Some(request.lineage).filter(|lineage| !lineage.is_empty());
        let measured = self
            .search
            .measure(&name, lineage.map(LineageId::from), request.generation);
        let measurements = measured.await?;
        let json = serde_json::to_string(&measurements);
        Ok(Response::new(MeasureResponse {
            lineage: measurements.candidate.lineage.to_string(),
            generation: measurements.candidate.generation,
            measurements_json: json.map_err(|error| Reason::Internal.status(error.to_string()))?,
        }))
    }
}
