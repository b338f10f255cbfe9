//! A gRPC service that is made when it is first called.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::server::NamedService;
use tower::Service;

/// Makes a service at its first call and keeps it: what takes milliseconds to make and is seldom asked keeps no start
/// waiting.
pub(crate) struct AtFirstCall<S, F> {
    service: Arc<OnceLock<S>>,
    make: F,
}

impl<S, F: Fn() -> S> AtFirstCall<S, F> {
    pub(crate) fn new(make: F) -> Self {
        Self {
            service: Arc::default(),
            make,
        }
    }
}

impl<S, F: Clone> Clone for AtFirstCall<S, F> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            make: self.make.clone(),
        }
    }
}

impl<S, F> Service<Request<Body>> for AtFirstCall<S, F>
where
    S: Service<Request<Body>, Error = Infallible> + Clone,
    F: Fn() -> S,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Services that tonic makes take any number of calls.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        self.service.get_or_init(&self.make).clone().call(request)
    }
}

impl<S: NamedService, F> NamedService for AtFirstCall<S, F> {
    const NAME: &'static str = S::NAME;
}
