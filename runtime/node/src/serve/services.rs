//! Three gRPC services on one socket.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

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
        let limit = request.headers().get("grpc-timeout").and_then(|value| time_left(value.to_str().ok()?));
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        let answer = match service {
            "runtime.v1.RuntimeService" => self.runtime.call(request),
            "runtime.v1.ImageService" => self.images.call(request),
            "podwright.control.v1.Control" => self.control.call(request),
            other => {
                let status = Status::unimplemented(format!("this node has no service {other:?}"));
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        };
        match limit {
            Some(limit) => {
                // tonic ends a call at the same moment, but with CANCELLED, which a kubelet takes for its own doing. Its
                // timer is set after this one and asked after it.
                let limited = tokio::time::timeout(limit, answer);
                Box::pin(async move {
                    limited.await.unwrap_or_else(|_| {
                        let status = Status::deadline_exceeded(format!("not done within the caller's {limit:?}"));
                        Ok(status.into_http())
                    })
                })
            }
            None => answer,
        }
    }
}

/// gRPC's `TimeoutValue TimeoutUnit`: at most 8 digits and one letter. What isn't that is no limit, as tonic has it.
fn time_left(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit).filter(|digits| (1..=8).contains(&digits.len()))?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number * 3600)),
        'M' => Some(Duration::from_secs(number * 60)),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("10S", Some(Duration::from_secs(10))),
            ("250m", Some(Duration::from_millis(250))),
            ("999876u", Some(Duration::from_micros(999_876))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999n", None),
            ("S", None),
            ("", None),
            ("+1S", None),
            ("1é", None),
            ("1s", None),
        ] {
            assert_eq!(time_left(text), expected, "{text:?}");
        }
    }

    /// A service that never answers.
    #[derive(Clone)]
    struct Silent;

    impl Service<Request<Body>> for Silent {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Answer;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Answer {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn a_call_that_is_late_has_exceeded_its_deadline() {
        let mut services = Services { runtime: Silent, images: Silent, control: Silent };
        let mut request = Request::new(Body::default());
        *request.uri_mut() = "/runtime.v1.ImageService/PullImage".parse().expect("a path");
        request.headers_mut().insert("grpc-timeout", "5m".parse().expect("a value"));
        let Ok(answer) = services.call(request).await;
        assert_eq!(answer.headers()["grpc-status"], "4");
    }
}
