//! Three gRPC services on one socket.

use std::convert::Infallible;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};

/// Which service a request is for stands in its path: `/runtime.v1.RuntimeService/Version`.
#[derive(Debug, Clone)]
pub(super) struct Services<R, I, C> {
    pub(super) runtime: R,
    pub(super) images: I,
    pub(super) control: C,
}

/// What tonic generates.
type Answer = BoxFuture<Response<Body>, Infallible>;

impl<R, I, C> Service<Request<Body>> for Services<R, I, C>
where
    R: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer>,
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer>,
    C: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    // Generated services are always ready: they hold nothing that could be busy.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        match service {
            "runtime.v1.RuntimeService" => self.runtime.call(request),
            "runtime.v1.ImageService" => self.images.call(request),
            "podwright.control.v1.Control" => self.control.call(request),
            other => {
                let status = Status::unimplemented(format!("this node has no service {other:?}"));
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}
