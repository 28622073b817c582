//! Requests to a hub: which server gets the token, what is retried and after which delay.
//!
//! The token goes to the server that `HF_ENDPOINT` names, and only over https or to this machine;
//! requests and redirects to other servers carry none. Connection errors and the statuses 408, 429
//! and 5xx are retried as in `huggingface_hub`, `utils/_http.py` (2.x). Ctrl-C ends every wait.
//! Not here: parallel requests; callers start threads.

use super::local_file::FilePart;
use super::origin::ServerOrigin;
use super::token::AccessToken;
use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, check_interrupted};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use ureq::http::{self, HeaderMap, Method, Request, Response, Uri};
use ureq::{Agent, AsSendBody, Body, SendBody};

/// The endpoint if `HF_ENDPOINT` is not set.
const HUB: &str = "https://huggingface.co";
/// The longest answer that is read into memory, in bytes. Content of files is streamed instead.
const MAX_ANSWER: u64 = 64 << 20;
/// How often a request is retried.
const RETRIES: u32 = 5;
/// How often a request is retried if the server cannot be reached at all.
const RETRIES_WITHOUT_SERVER: u32 = 2;
/// The longest wait that a server can request. Rate limits of the hub last five minutes.
const MAX_WAIT: Duration = Duration::from_secs(310);
/// The most redirects of one request.
const MAX_REDIRECTS: usize = 5;

/// A server, and the token for it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Follows no redirects, because `ureq` would send the token to other ports of a host.
    agent: Agent,
    endpoint: String,
    origin: ServerOrigin,
    token: Option<Arc<AccessToken>>,
}

/// The body of a request.
#[derive(Clone)]
pub(super) enum RequestBody {
    /// No body.
    Nothing,
    /// Bytes and their content type.
    Bytes(Arc<[u8]>, &'static str),
    /// A part of a file.
    FilePart(Arc<FilePart>),
}

impl RequestBody {
    /// A JSON text with the content type `kind`.
    pub(super) fn json(text: impl ToString, kind: &'static str) -> RequestBody {
        RequestBody::Bytes(text.to_string().into_bytes().into(), kind)
    }
}

/// A request that can be sent several times.
#[derive(Clone)]
pub(super) struct ApiRequest {
    pub method: Method,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub content: RequestBody,
    /// Whether the token is sent, provided that `url` is on the server.
    pub authorized: bool,
    /// What the request is for, as error messages say it. They omit addresses, which can be secret.
    pub purpose: String,
}

impl ApiRequest {
    /// A request with the token and without extra headers.
    pub(super) fn new(
        method: Method,
        url: impl Into<String>,
        content: RequestBody,
        purpose: impl Into<String>,
    ) -> ApiRequest {
        let (url, purpose) = (url.into(), purpose.into());
        ApiRequest { method, url, headers: Vec::new(), content, authorized: true, purpose }
    }
}

/// An answer, read completely.
pub(super) struct ApiResponse {
    pub status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl ApiResponse {
    /// Whether the status is a success.
    pub(super) fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The value of the header `name`.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The bytes of the body.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The delay before the next request that the server asks for.
    pub(super) fn requested_wait(&self) -> Option<Duration> {
        requested_wait(&self.headers)
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub(super) struct RequestFailure {
    pub text: String,
    /// How many retries make sense.
    retries: u32,
}

/// The outcome of one attempt.
type Attempt<T> = std::result::Result<T, RequestFailure>;

impl RequestFailure {
    /// A failure that a retry cannot resolve.
    fn permanent(text: &str) -> RequestFailure {
        RequestFailure { text: text.to_string(), retries: 0 }
    }

    /// Whether a retry may succeed.
    pub(super) fn is_transient(&self) -> bool {
        self.retries > 0
    }
}

impl Client {
    /// The server that `HF_ENDPOINT` names, else the hub, with the user's token. No token is used
    /// for a server that is reached unencrypted over a network.
    pub(super) fn from_env() -> Result<Client> {
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|text| !text.is_empty());
        let endpoint = endpoint.as_deref().unwrap_or(HUB).trim_end_matches('/').to_string();
        let origin = ServerOrigin::of(&endpoint).ok_or_else(|| {
            Error::Usage(format!(
                "HF_ENDPOINT is not the address of a server: {endpoint:?}; \
                 set it to an http or https URL"
            ))
        })?;
        let token = origin.is_private().then(AccessToken::from_env).flatten().map(Arc::new);
        Ok(Client { agent: agent(), endpoint, origin, token })
    }

    /// The address of the server, without a trailing slash.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Fails if there is no token, or if it cannot be sent safely.
    pub(super) fn require_token(&self) -> Result<()> {
        let endpoint = &self.endpoint;
        if !self.origin.is_private() {
            return Err(Error::Usage(format!(
                "HF_ENDPOINT is {endpoint}, but a token is sent over https only, or to this \
                 machine; use an https address"
            )));
        }
        match self.token {
            Some(_) => Ok(()),
            None => Err(Error::Usage(format!(
                "no token for {endpoint}: set HF_TOKEN to a token with write access, \
                 or sign in with: hf auth login"
            ))),
        }
    }

    /// Returns `url` with the hub's address replaced by the endpoint; other addresses stay. Fails
    /// if `url` is not valid, or is unencrypted while the endpoint is encrypted.
    pub(super) fn resolve(&self, url: &str) -> Result<String> {
        let url = match url.strip_prefix(HUB) {
            Some(rest) if rest.starts_with('/') => format!("{}{rest}", self.endpoint),
            _ => url.to_string(),
        };
        match ServerOrigin::of(&url) {
            Some(origin) if origin.secure || !self.origin.secure => Ok(url),
            _ => self.fail("the server sent an address that is not valid, or not encrypted"),
        }
    }

    /// Returns an error that names the server. `detail` may quote an answer: the token and control
    /// characters are removed from it.
    pub(super) fn fail<T>(&self, detail: impl AsRef<str>) -> Result<T> {
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let detail: String = detail.as_ref().chars().map(printable).collect();
        let detail = match &self.token {
            Some(token) => token.hide(&detail),
            None => detail,
        };
        Err(Error::model(&self.endpoint, detail))
    }

    /// Returns an error with the status and message of `reply`, and what to do about it.
    pub(super) fn fail_refused<T>(&self, request: &ApiRequest, reply: &ApiResponse) -> Result<T> {
        // Messages of other servers may quote secret addresses.
        let is_hub = ServerOrigin::of(&request.url).is_some_and(|origin| origin == self.origin);
        let said = is_hub
            .then(|| server_message(reply))
            .flatten()
            .map_or(String::new(), |text| format!(": {text}"));
        let remedy = match reply.status {
            401 => "; the token is not valid here, create one on the server's settings page",
            403 => "; the token lacks write access to this repository",
            300..=399 => "; the repository was renamed, or the server moved; use the new name",
            _ => "",
        };
        self.fail(format!(
            "{}: the server answered {}{said}{remedy}",
            request.purpose, reply.status
        ))
    }

    /// Starts a GET of `url` from byte `from`, following redirects; only the server gets the token.
    /// Does not retry. The outer error is an interruption.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Attempt<Response<Body>>> {
        let (client, url) = (self.clone(), url.to_string());
        run_interruptible(move || client.get_following(url, from), || {})
    }

    /// Sends a GET for `url` from byte `from`, and again for every redirect.
    fn get_following(&self, mut url: String, from: u64) -> Attempt<Response<Body>> {
        for _ in 0..=MAX_REDIRECTS {
            let mut get = Request::get(&url);
            if from > 0 {
                get = get.header("Range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token_for(&url) {
                get = get.header("Authorization", token.authorization());
            }
            let response = self.run(get.body(()))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            url = redirect_target(&url, response.headers())?;
        }
        Err(RequestFailure::permanent("the server redirects in a circle"))
    }

    /// Sends a request, with retries, and reads the answer. A refusal (4xx) is an answer as well.
    ///
    /// # Errors
    /// If there is no answer, or if temporary errors persist through all retries.
    pub(super) fn send(
        &self,
        request: &ApiRequest,
        progress: &dyn Progress,
    ) -> Result<ApiResponse> {
        let mut tries = 0;
        loop {
            check_interrupted()?;
            let wait = match self.try_once(request, progress)? {
                Ok(reply) if !is_transient(reply.status) => return Ok(reply),
                Ok(reply) if tries == RETRIES => return self.fail_refused(request, &reply),
                Ok(reply) => reply.requested_wait(),
                Err(failure) => {
                    if let RequestBody::FilePart(part) = &request.content {
                        part.check_unchanged()?;
                    }
                    if tries >= failure.retries {
                        return self.fail(format!("{}: {}", request.purpose, failure.text));
                    }
                    None
                }
            };
            pause(tries, wait, progress)?;
            tries += 1;
        }
    }

    /// Like [`Client::send`], but refusals are errors.
    pub(super) fn send_ok(
        &self,
        request: &ApiRequest,
        progress: &dyn Progress,
    ) -> Result<ApiResponse> {
        let reply = self.send(request, progress)?;
        if reply.is_ok() { Ok(reply) } else { self.fail_refused(request, &reply) }
    }

    /// Parses the body of `reply` as JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(
        &self,
        request: &ApiRequest,
        reply: &ApiResponse,
    ) -> Result<T> {
        let read = serde_json::from_slice(&reply.body);
        read.or_else(|e| {
            self.fail(format!("{}: the answer cannot be parsed: {e}", request.purpose))
        })
    }

    /// The token, if `url` is on the server.
    fn token_for(&self, url: &str) -> Option<&AccessToken> {
        self.token
            .as_deref()
            .filter(|_| ServerOrigin::of(url).is_some_and(|origin| origin == self.origin))
    }

    /// Sends a request once and reads the answer. The outer error is an interruption.
    pub(super) fn try_once(
        &self,
        request: &ApiRequest,
        progress: &dyn Progress,
    ) -> Result<Attempt<ApiResponse>> {
        let (client, sent) = (self.clone(), request.clone());
        run_interruptible(
            move || client.perform(sent),
            || {
                if let RequestBody::FilePart(part) = &request.content {
                    progress.advance(part.newly_sent());
                }
            },
        )
    }

    /// Sends `request` and reads the answer. Blocks until the server answers.
    fn perform(&self, request: ApiRequest) -> Attempt<ApiResponse> {
        if request.method == Method::GET {
            return read_answer(self.get_following(request.url, 0)?);
        }
        let mut builder = Request::builder().method(request.method).uri(&request.url);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let has_own =
            request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let use_token = request.authorized && !has_own;
        if let Some(token) = self.token_for(&request.url).filter(|_| use_token) {
            builder = builder.header("Authorization", token.authorization());
        }
        let response = match &request.content {
            RequestBody::Nothing => self.run(builder.body(())),
            RequestBody::Bytes(bytes, kind) => {
                self.run(builder.header("Content-Type", *kind).body(&bytes[..]))
            }
            RequestBody::FilePart(part) => {
                let mut bytes = part.reader().map_err(|e| failure(ureq::Error::Io(e)))?;
                // Object stores do not accept chunked encoding, so the length is sent.
                let builder = builder.header("Content-Length", part.len());
                self.run(builder.body(SendBody::from_reader(&mut bytes)))
            }
        };
        read_answer(response?)
    }

    fn run(&self, request: http::Result<Request<impl AsSendBody>>) -> Attempt<Response<Body>> {
        let request =
            request.map_err(|_| RequestFailure::permanent("the address cannot be used"))?;
        self.agent.run(request).map_err(failure)
    }
}

/// Runs `job` in a thread and returns its result. Ctrl-C returns at once and leaves the thread
/// behind, since a server may never answer. `tick` is called ten times a second, and at the end.
fn run_interruptible<T: Send + 'static>(
    job: impl FnOnce() -> Attempt<T> + Send + 'static,
    tick: impl Fn(),
) -> Result<Attempt<T>> {
    let (send, receive) = mpsc::channel();
    // Sending fails if the caller was interrupted.
    std::thread::spawn(move || drop(send.send(job())));
    loop {
        let outcome = receive.recv_timeout(Duration::from_millis(100));
        tick();
        match outcome {
            Ok(outcome) => return Ok(outcome),
            Err(RecvTimeoutError::Timeout) => check_interrupted()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Err(RequestFailure::permanent("the request was aborted")));
            }
        }
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(120)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .timeout_per_write(Some(Duration::from_secs(60)))
        .user_agent(concat!("aqueduct/", env!("CARGO_PKG_VERSION")));
    config.build().into()
}

fn read_answer(mut response: Response<Body>) -> Attempt<ApiResponse> {
    let body =
        response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(failure)?;
    let status = response.status().as_u16();
    Ok(ApiResponse { status, headers: std::mem::take(response.headers_mut()), body })
}

/// The address that the `Location` of an answer from `url` names; it may be a path on the same
/// server.
fn redirect_target(url: &str, headers: &HeaderMap) -> Attempt<String> {
    let nowhere = || {
        RequestFailure::permanent(
            "the server redirects to an address that is not valid or not encrypted",
        )
    };
    let target =
        headers.get("location").and_then(|value| value.to_str().ok()).ok_or_else(nowhere)?;
    let target = match target.strip_prefix('/') {
        Some(path) if !path.starts_with('/') => {
            let uri: Uri = url.parse().map_err(|_| nowhere())?;
            let authority = uri.authority().ok_or_else(nowhere)?;
            format!("{}://{authority}{target}", uri.scheme_str().ok_or_else(nowhere)?)
        }
        _ => target.to_string(),
    };
    let (from, to) = (ServerOrigin::of(url).ok_or_else(nowhere)?, ServerOrigin::of(&target));
    if to.is_some_and(|to| to.secure || !from.secure) { Ok(target) } else { Err(nowhere()) }
}

/// Whether a retry after `status` may succeed.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// Classifies an error of `ureq`.
fn failure(error: ureq::Error) -> RequestFailure {
    use std::io::ErrorKind;
    use ureq::Error as E;
    let retries = match &error {
        E::HostNotFound | E::ConnectionFailed => RETRIES_WITHOUT_SERVER,
        E::Io(e) if e.kind() == ErrorKind::ConnectionRefused => RETRIES_WITHOUT_SERVER,
        // This kind stands for certificates that are not accepted.
        E::Io(e) if e.kind() == ErrorKind::InvalidData => 0,
        E::Io(_) | E::Timeout(_) | E::Protocol(_) => RETRIES,
        _ => 0,
    };
    let text = match &error {
        // The error quotes the address, which may be secret.
        E::BadUri(_) => "the address cannot be used".to_string(),
        E::HostNotFound => "the server cannot be reached: there is no such host".to_string(),
        E::ConnectionFailed => "the server cannot be reached".to_string(),
        E::Io(e) if retries == RETRIES_WITHOUT_SERVER => {
            format!("the server cannot be reached: {e}")
        }
        error => format!("the connection failed: {error}"),
    };
    RequestFailure { text, retries }
}

/// The delay that the server asks for: `Retry-After` in seconds, or `t` of `RateLimit`
/// (draft-ietf-httpapi-ratelimit-headers).
pub(super) fn requested_wait(headers: &HeaderMap) -> Option<Duration> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let limit = || header("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="));
    let seconds: u64 = header("retry-after").or_else(limit)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Waits before retry number `tries` + 1: `asked` up to [`MAX_WAIT`], else half a second, doubled
/// each time.
pub(super) fn pause(tries: u32, asked: Option<Duration>, progress: &dyn Progress) -> Result<()> {
    let backoff = Duration::from_millis(500 << tries.min(4));
    let wait = asked.unwrap_or(backoff).clamp(backoff, MAX_WAIT);
    if wait > Duration::from_secs(10) {
        progress.note(&format!("the server asks to wait {} seconds", wait.as_secs()));
    }
    let end = Instant::now() + wait;
    loop {
        check_interrupted()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// The error message in an answer, at most 400 characters.
fn server_message(reply: &ApiResponse) -> Option<String> {
    let json = || {
        let body: serde_json::Value = serde_json::from_slice(&reply.body).ok()?;
        let text = body.get("error").or_else(|| body.get("message"))?.as_str()?;
        Some(text.to_string())
    };
    let text = reply.header("x-error-message").map(str::to_string).or_else(json)?;
    let text: String = text.chars().take(400).collect();
    Some(text.trim().trim_end_matches('.').to_string()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requested_waits_are_read_from_headers() {
        let wait = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            requested_wait(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("retry-after", "7"), Some(7));
        assert_eq!(wait("ratelimit", "\"api\";r=0;t=55"), Some(55));
        assert_eq!(wait("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(wait("date", "7"), None);
    }
}
