//! Requests: endpoints in turn, patience with busy ones, authorization, redirects.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use crate::auth::{Auth, Secret};
use crate::blob::pause;
use crate::error::{Attempt, Cause, RegistryError, told};
use crate::guard::{Guarded, Pace};
use crate::hosts::{Endpoint, HostsError, endpoints};
use crate::net::{RedirectRefused, origin, redirect_target};
use crate::proxy::Proxies;
use crate::reference::Reference;
use crate::token::{
    BASIC_LIFE, Challenge, GrantKey, Grants, Presentable, TOKEN_ANSWER_BYTES_MAX, basic, bearer, challenges, granted,
    presentable, refusal, token_request,
};

mod answer;
mod transport;

use transport::Transports;

/// Redirects followed per request; registries with a content network need two.
const REDIRECTS_MAX: usize = 5;
/// Rounds of authorization per request: with what is known, with a fresh token, and once more for a token that the
/// registry's other half doesn't know yet.
const AUTHORIZATION_ROUNDS_MAX: usize = 3;
/// Repetitions at a busy or broken endpoint that is the last.
const REPETITIONS_MAX: u32 = 4;
/// Repetitions where others can be asked: one more, since connections break now and then.
const REPETITIONS_BEFORE_NEXT_MAX: u32 = 1;
/// How long an endpoint in trouble is asked last.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(30);
/// Endpoints remembered as resting; beyond, all are forgotten.
const RESTING_MAX: usize = 256;

/// How the client behaves. All durations are upper bounds of single waits; a pull's own deadline is its caller's.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// The directory of `<host>/hosts.toml`; `None`: no mirrors. It may be absent and is read anew for each operation.
    pub hosts_dir: Option<PathBuf>,
    /// Which requests go through a proxy.
    pub proxies: Proxies,
    /// For a connection with its TLS session.
    pub connect_timeout: Duration,
    /// From a request to the head of its answer.
    pub answer_timeout: Duration,
    /// Longest silence in a body.
    pub idle_timeout: Duration,
    /// In each such time of waiting for a body, at least `rate_bytes_min` must come.
    pub rate_window: Duration,
    /// See `rate_window`.
    pub rate_bytes_min: u64,
    /// The first pause before an endpoint that is busy or broke off is asked again; the next ones double.
    pub retry_pause: Duration,
    /// Longest total pause at one endpoint; a registry that asks for more (Retry-After) is left.
    pub retry_pause_max: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            hosts_dir: None,
            proxies: Proxies::default(),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            rate_window: Duration::from_secs(60),
            rate_bytes_min: 64 * 1024,
            retry_pause: Duration::from_millis(500),
            retry_pause_max: Duration::from_secs(60),
        }
    }
}

/// A client of all registries. Cheap to clone; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RegistryConfig,
    transports: Transports,
    grants: Grants,
    resting: Mutex<HashMap<String, Instant>>,
}

/// One request, to be made at any endpoint.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) reference: &'a Reference,
    pub(crate) auth: Option<&'a Auth>,
    pub(crate) method: Method,
    /// Behind `/v2/<repository>/`.
    pub(crate) path: &'a str,
    pub(crate) accept: &'a [&'static str],
    pub(crate) from_byte: u64,
}

/// The answer to one request after redirects.
struct Landed {
    response: Response,
    /// Whether it came from the endpoint itself.
    at_home: bool,
}

impl Registry {
    /// A client. Connects to nothing yet, reads no file yet.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        let transports = Transports::default();
        let (grants, resting) = (Grants::default(), Mutex::default());
        Self { inner: Arc::new(Inner { config, transports, grants, resting }) }
    }

    /// The endpoints of a reference's registry in the order of its settings: what `pull --explain` shows.
    pub async fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        let hosts_dir = self.inner.config.hosts_dir.clone();
        let registry = reference.registry().to_owned();
        let read = tokio::task::spawn_blocking(move || endpoints(hosts_dir.as_deref(), &registry)).await;
        read.unwrap_or(Err(HostsError::Interrupted)).map_err(|source| RegistryError::Hosts {
            registry: reference.registry().to_owned(),
            source: Box::new(source),
        })
    }

    /// The endpoints that serve content; never empty.
    pub(crate) async fn pulling(&self, reference: &Reference, what: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let mut endpoints = self.endpoints(reference).await?;
        endpoints.retain(|endpoint| endpoint.capabilities.pull);
        if endpoints.is_empty() {
            let registry = reference.registry().to_owned();
            return Err(RegistryError::NoEndpoint { what: what.to_owned(), registry, capability: "pull" });
        }
        Ok(endpoints)
    }

    pub(crate) fn pace(&self) -> Pace {
        let config = &self.inner.config;
        Pace { idle: config.idle_timeout, window: config.rate_window, bytes_min: config.rate_bytes_min }
    }

    pub(crate) fn pause(&self, n: u32) -> Duration {
        pause(self.inner.config.retry_pause, self.inner.config.retry_pause_max, n)
    }

    /// The first answer that `read` accepts, of the endpoints in order.
    pub(crate) async fn first_of<T, F: Future<Output = Result<T, Cause>> + Send>(
        &self,
        endpoints: &[Endpoint],
        what: String,
        call: &Call<'_>,
        read: impl Fn(String, Response) -> F + Send + Sync,
    ) -> Result<T, RegistryError> {
        let mut attempts = Vec::new();
        let order = self.rested_first(endpoints);
        for (index, endpoint) in order.iter().enumerate() {
            let is_last = index + 1 == order.len();
            let repetitions_max = if is_last { REPETITIONS_MAX } else { REPETITIONS_BEFORE_NEXT_MAX };
            match self.patiently(endpoint, call, &read, repetitions_max).await {
                Ok(value) => {
                    self.resting().remove(&origin(&endpoint.base));
                    return Ok(value);
                }
                Err(cause) => {
                    if cause.is_trouble() {
                        self.rest(endpoint);
                    }
                    tracing::debug!(%endpoint, %cause, what, "endpoint failed");
                    attempts.push(Attempt { endpoint: endpoint.to_string(), cause });
                }
            }
        }
        // Whatever the order was, the registry itself is named last, since it decides what kind of failure this is.
        let own = |attempt: &Attempt| {
            endpoints.iter().any(|endpoint| endpoint.is_upstream && endpoint.to_string() == attempt.endpoint)
        };
        attempts.sort_by_key(own);
        Err(RegistryError::Endpoints { what, attempts })
    }

    fn resting(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.inner.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rest(&self, endpoint: &Endpoint) {
        let mut resting = self.resting();
        if resting.len() >= RESTING_MAX {
            resting.clear();
        }
        resting.insert(origin(&endpoint.base), Instant::now());
    }

    /// An endpoint that was in trouble a moment ago goes to the end: a mirror that is down would otherwise cost its timeout
    /// once per layer.
    fn rested_first<'a>(&self, endpoints: &'a [Endpoint]) -> Vec<&'a Endpoint> {
        let resting = self.resting();
        let rests = |endpoint: &&Endpoint| {
            resting.get(&origin(&endpoint.base)).is_some_and(|since| since.elapsed() < REST_AFTER_FAILURE)
        };
        let (tired, fresh): (Vec<_>, Vec<_>) = endpoints.iter().partition(rests);
        fresh.into_iter().chain(tired).collect()
    }

    /// One endpoint, again while it is only busy.
    async fn patiently<T, F: Future<Output = Result<T, Cause>> + Send>(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        read: &(impl Fn(String, Response) -> F + Send + Sync),
        repetitions_max: u32,
    ) -> Result<T, Cause> {
        let mut paused = Duration::ZERO;
        let mut repetition = 0;
        loop {
            let result = match self.ask(endpoint, call).await {
                Ok(response) => read(endpoint.to_string(), response).await,
                Err(cause) => Err(cause),
            };
            let cause = match result {
                Ok(value) => return Ok(value),
                Err(cause) => cause,
            };
            repetition += 1;
            let wait = cause.retry_after().unwrap_or_default().max(self.pause(repetition));
            let patience = self.inner.config.retry_pause_max.saturating_sub(paused);
            if !cause.is_passing() || repetition > repetitions_max || wait > patience {
                return Err(cause);
            }
            tokio::time::sleep(wait).await;
            paused += wait;
        }
    }

    /// One request at one endpoint, authorized as it asks. The answer's status is a success.
    async fn ask(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<Response, Cause> {
        let offered = presentable(call.auth, endpoint, call.reference);
        let auth = offered.auth();
        let key = GrantKey {
            origin: origin(&endpoint.base),
            repository: call.reference.repository().to_owned(),
            credentials: auth.map(Auth::fingerprint),
        };
        let mut authorization = match auth.map(|auth| &auth.secret) {
            Some(Secret::RegistryToken(token)) => Some(bearer(token)?),
            _ => self.inner.grants.known(&key),
        };
        let mut refused = String::new();
        for _ in 0..AUTHORIZATION_ROUNDS_MAX {
            let landed = self.follow(endpoint, call, authorization.as_ref()).await?;
            if landed.response.status() == StatusCode::FORBIDDEN && landed.at_home {
                self.inner.grants.forget(&key);
                let words = answer::detail(landed.response, self.pace()).await;
                return Err(Cause::Unauthorized(forbidden(&offered, &words)));
            }
            if landed.response.status() != StatusCode::UNAUTHORIZED {
                return answer::accepted(landed.response, call, self.pace()).await;
            }
            // A challenge of a redirect's target is nobody's we know: answering it would send credentials there.
            if !landed.at_home {
                return Err(Cause::Unauthorized("the host that it redirects to asks for credentials".to_owned()));
            }
            self.inner.grants.forget(&key);
            let found = challenges(landed.response.headers());
            let words = answer::detail(landed.response, self.pace()).await;
            refused = refusal(&offered, &found, &words);
            authorization = match self.answer(endpoint, call, &found, offered, &key).await? {
                Some(next) if authorization.as_ref() != Some(&next) => Some(next),
                _ => break,
            };
        }
        Err(Cause::Unauthorized(refused))
    }

    /// The header that answers a challenge; `None` when there is nothing to answer with.
    async fn answer(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        found: &[Challenge],
        offered: Presentable<'_>,
        key: &GrantKey,
    ) -> Result<Option<HeaderValue>, Cause> {
        let auth = offered.auth();
        if matches!(auth.map(|auth| &auth.secret), Some(Secret::RegistryToken(_))) {
            return Ok(None);
        }
        for challenge in found {
            match (challenge.scheme.as_str(), auth.map(|auth| &auth.secret)) {
                ("bearer", _) => {
                    let (header, life) = self.fetch_token(endpoint, call, challenge, offered).await?;
                    self.inner.grants.keep(key.clone(), header.clone(), life);
                    return Ok(Some(header));
                }
                ("basic", Some(Secret::Password { username, password })) => {
                    let header = basic(username, password)?;
                    self.inner.grants.keep(key.clone(), header.clone(), BASIC_LIFE);
                    return Ok(Some(header));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    async fn fetch_token(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        challenge: &Challenge,
        offered: Presentable<'_>,
    ) -> Result<(HeaderValue, Duration), Cause> {
        let request = token_request(challenge, endpoint, call.reference.repository(), offered.auth())?;
        let client = self.inner.transports.client(&self.inner.config, endpoint, &request.url)?;
        let via = self.inner.config.proxies.shown(&request.url);
        let mut sent = match request.form {
            Some(form) => {
                let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
                client.post(request.url).header(CONTENT_TYPE, form_type).body(form)
            }
            None => client.get(request.url),
        };
        if let Some(authorization) = request.authorization {
            sent = sent.header(AUTHORIZATION, authorization);
        }
        // Redirects of a token service aren't followed: the next host would see what is meant for this one.
        let response = self.in_time(via, sent.send()).await?;
        match response.status() {
            StatusCode::OK => {
                let limit = u64::try_from(TOKEN_ANSWER_BYTES_MAX).unwrap_or(u64::MAX);
                granted(&Guarded::new(response, self.pace()).whole(limit).await?)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let words = answer::detail(response, self.pace()).await;
                let words = format!(": its token service gives no token{words}");
                Err(Cause::Unauthorized(refusal(&offered, &[], &words)))
            }
            _ => Err(answer::failure(response, self.pace()).await),
        }
    }

    /// Sends the request and follows redirects by hand: the endpoint's headers and the authorization stay at home.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Landed, Cause> {
        let mut url = call.url(endpoint);
        let home = url.origin();
        // What the redirects have left once doesn't get secrets again, even if they lead back.
        let mut at_home = true;
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = call.headers();
            if at_home {
                headers.extend(endpoint.header.clone());
                if let Some(authorization) = authorization {
                    headers.insert(AUTHORIZATION, authorization.clone());
                }
            }
            let client = self.inner.transports.client(&self.inner.config, endpoint, &url)?;
            let sent = client.request(call.method.clone(), url.clone()).headers(headers).send();
            let response = self.in_time(self.inner.config.proxies.shown(&url), sent).await?;
            if !is_redirect(response.status()) {
                return Ok(Landed { response, at_home });
            }
            url = redirect_target(&url, response.headers()).map_err(Cause::Redirect)?;
            at_home &= url.origin() == home;
        }
        Err(Cause::Redirect(RedirectRefused::TooMany(REDIRECTS_MAX)))
    }

    /// Sends, by way of a proxy or without one, and waits for the head of the answer.
    async fn in_time(
        &self,
        via: Option<String>,
        sent: impl Future<Output = reqwest::Result<Response>>,
    ) -> Result<Response, Cause> {
        let limit = self.inner.config.answer_timeout;
        // Where a proxy stands between, it is the one to look at.
        let via = via.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
        match tokio::time::timeout(limit, sent).await {
            Ok(Ok(response)) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(Cause::Connect(format!("{via}: it wants other credentials")))
            }
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(Cause::Connect(format!("{via}: {}", told(error)))),
            Ok(Err(error)) => Err(Cause::Broken(told(error))),
            Err(_) => Err(Cause::NoAnswer { limit }),
        }
    }
}

impl Call<'_> {
    fn url(&self, endpoint: &Endpoint) -> Url {
        let mut url = endpoint.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{}/{}", self.reference.repository(), self.path));
        if let Some(namespace) = &endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        // Bytes have a digest as they are; a server that compresses on the way would change them.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for media_type in self.accept {
            headers.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        if self.from_byte > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", self.from_byte))
        {
            headers.insert(RANGE, range);
        }
        headers
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// A 403: without credentials it may want some; with ones that it knows, they allow too little, unless they are over.
fn forbidden(offered: &Presentable<'_>, words: &str) -> String {
    let scope = Challenge::insufficient_scope();
    refusal(offered, std::slice::from_ref(&scope), &format!(": answered 403{words}"))
}

#[cfg(test)]
mod tests;
