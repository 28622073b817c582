//! Requests to a hub: who sees the token, what is tried again and after how long, how answers are read.
//!
//! Under `download` and `upload`. The token goes to the server that `HF_ENDPOINT` names and to no other: requests
//! elsewhere and redirects away from it carry none, and a server that others can listen to gets none. Failures that
//! may pass (the connection, 408, 429, 5xx) are tried again as `huggingface_hub` does, `utils/_http.py` (2.x), with
//! its headers that tell how long to wait. Every request is waited for
//! in such a way that an interruption ends it. Deliberately absent: parallel requests, which callers make from threads.

use super::digest::Part;
use super::token::Token;
use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, check_interrupted};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use ureq::http::{self, HeaderMap, Method, Request, Response, Uri};
use ureq::{Agent, AsSendBody, Body, SendBody};

const HUB: &str = "https://huggingface.co";
/// No answer but a file's content is longer.
const MAX_ANSWER: u64 = 64 << 20;
/// How often a request is tried again.
const RETRIES: u32 = 5;
/// How often, if there is nobody who listens.
const RETRIES_WITHOUT_SERVER: u32 = 2;
/// No server is waited for longer than its limits of rates last, which are five minutes.
const MAX_WAIT: Duration = Duration::from_secs(310);

/// More is a circle.
const MAX_REDIRECTS: usize = 5;

/// A server and what it needs to be told.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Follows no redirect: `ureq` takes another port of a host for the same server.
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Arc<Token>>,
}

/// What a token belongs to: scheme, host and port of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// That of `url`; `None` for what is no plain http or https address.
    fn of(url: &str) -> Option<Origin> {
        let uri: Uri = url.parse().ok()?;
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        // A name before the host is where the real host hides.
        (!authority.as_str().contains('@') && !authority.host().is_empty()).then(|| Origin {
            secure,
            host: authority.host().to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
        })
    }

    /// Whether nobody else can listen.
    fn is_private(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']');
        let loopback = |text: &str| text.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        self.secure || self.host == "localhost" || loopback(address)
    }
}

/// What is sent with a request.
#[derive(Clone)]
pub(super) enum Content {
    Nothing,
    /// Bytes and what they are.
    Bytes(Arc<[u8]>, &'static str),
    /// A part of a file.
    Part(Arc<Part>),
}

impl Content {
    pub(super) fn json(text: impl ToString, kind: &'static str) -> Content {
        Content::Bytes(text.to_string().into_bytes().into(), kind)
    }
}

/// A request that can be made again.
#[derive(Clone)]
pub(super) struct Call {
    pub method: Method,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub content: Content,
    /// Whether the token is to go along, if the address is the server's.
    pub authorized: bool,
    /// What is being done, for errors; addresses may be secrets themselves.
    pub what: String,
}

impl Call {
    /// A request to the hub itself.
    pub(super) fn new(
        method: Method,
        url: impl Into<String>,
        content: Content,
        what: impl Into<String>,
    ) -> Call {
        let (url, what) = (url.into(), what.into());
        Call { method, url, headers: Vec::new(), content, authorized: true, what }
    }
}

/// An answer that was read to its end.
pub(super) struct Reply {
    pub status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    pub(super) fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// How long the server asks to wait.
    pub(super) fn asked_wait(&self) -> Option<Duration> {
        asked_wait(&self.headers)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub text: String,
    /// How often it is worth another try.
    retries: u32,
}

impl Failure {
    fn lasting(text: &str) -> Failure {
        Failure { text: text.to_string(), retries: 0 }
    }

    /// Whether another try may end otherwise.
    pub(super) fn is_transient(&self) -> bool {
        self.retries > 0
    }
}

impl Client {
    /// The server that `HF_ENDPOINT` names, else the hub, and the user's token for it. There is none for a server
    /// that is reached in the clear over a network.
    pub(super) fn from_env() -> Result<Client> {
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|text| !text.is_empty());
        let endpoint = endpoint.as_deref().unwrap_or(HUB).trim_end_matches('/').to_string();
        let origin = Origin::of(&endpoint).ok_or_else(|| {
            Error::Usage(format!("HF_ENDPOINT is no address of a server: {endpoint:?}"))
        })?;
        let token = origin.is_private().then(Token::from_env).flatten().map(Arc::new);
        Ok(Client { agent: agent(), endpoint, origin, token })
    }

    /// The server's address, without a slash at its end.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Fails if there is no token, or no way to send one safely.
    pub(super) fn need_token(&self) -> Result<()> {
        let endpoint = &self.endpoint;
        if !self.origin.is_private() {
            return Err(Error::Usage(format!(
                "HF_ENDPOINT is {endpoint}: a token is sent over https only, or to this machine"
            )));
        }
        match self.token {
            Some(_) => Ok(()),
            None => Err(Error::Usage(format!(
                "no token for {endpoint}: set HF_TOKEN to one that may write, or sign in with: hf auth login"
            ))),
        }
    }

    /// Where the hub itself is meant, the address on this server; any other address as it is. Fails for one that is
    /// less safe than the server's, or none.
    pub(super) fn here(&self, url: &str) -> Result<String> {
        let url = match url.strip_prefix(HUB) {
            Some(rest) if rest.starts_with('/') => format!("{}{rest}", self.endpoint),
            _ => url.to_string(),
        };
        match Origin::of(&url) {
            Some(origin) if origin.secure || !self.origin.secure => Ok(url),
            _ => self.fail("the server gives an address that is none, or not safe"),
        }
    }

    /// An error that names the server. `detail` may be what a server says: a token that it repeats is taken out, and
    /// what steers a terminal.
    pub(super) fn fail<T>(&self, detail: impl AsRef<str>) -> Result<T> {
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let detail: String = detail.as_ref().chars().map(printable).collect();
        let detail = match &self.token {
            Some(token) => token.hide(&detail),
            None => detail,
        };
        Err(Error::model(&self.endpoint, detail))
    }

    /// An error that tells what the server says in `reply`.
    pub(super) fn refuse<T>(&self, call: &Call, reply: &Reply) -> Result<T> {
        // What other servers say may hold the secrets of an address.
        let own = Origin::of(&call.url).is_some_and(|origin| origin == self.origin);
        let said =
            own.then(|| said(reply)).flatten().map_or(String::new(), |text| format!(": {text}"));
        let remedy = match reply.status {
            401 => "; the token is not valid here",
            403 => "; the token may not do that: it needs the right to write to this repository",
            300..=399 => "; the repository has another name now, or the server moved",
            _ => "",
        };
        self.fail(format!("{}: the server answered {}{said}{remedy}", call.what, reply.status))
    }

    /// Starts to get `url` from byte `from` on, wherever redirects lead; the token goes to the server alone. Not tried
    /// again. The outer error is an interruption.
    pub(super) fn get(
        &self,
        url: &str,
        from: u64,
    ) -> Result<std::result::Result<Response<Body>, Failure>> {
        let (client, url) = (self.clone(), url.to_string());
        apart(move || client.follow(url, from), || {})
    }

    fn follow(&self, mut url: String, from: u64) -> std::result::Result<Response<Body>, Failure> {
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::get(&url);
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token_for(&url) {
                request = request.header("Authorization", token.authorization());
            }
            let response = self.run(request.body(()))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            url = redirected(&url, response.headers())?;
        }
        Err(Failure::lasting("the server redirects in a circle"))
    }

    /// Makes a request, again where that may help, and reads the answer, which may be a refusal.
    ///
    /// # Errors
    /// If there is no answer, or none but errors that may pass.
    pub(super) fn call(&self, call: &Call, progress: &dyn Progress) -> Result<Reply> {
        let mut tries = 0;
        loop {
            check_interrupted()?;
            let wait = match self.try_once(call, progress)? {
                Ok(reply) if !is_transient(reply.status) => return Ok(reply),
                Ok(reply) if tries == RETRIES => return self.refuse(call, &reply),
                Ok(reply) => reply.asked_wait(),
                Err(failure) => {
                    if let Content::Part(part) = &call.content {
                        part.check_unchanged()?;
                    }
                    if tries >= failure.retries {
                        return self.fail(format!("{}: {}", call.what, failure.text));
                    }
                    None
                }
            };
            pause(tries, wait, progress)?;
            tries += 1;
        }
    }

    /// As [`Client::call`], but refusals are errors.
    pub(super) fn demand(&self, call: &Call, progress: &dyn Progress) -> Result<Reply> {
        let reply = self.call(call, progress)?;
        if reply.is_ok() { Ok(reply) } else { self.refuse(call, &reply) }
    }

    /// What `reply` says, in JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(
        &self,
        call: &Call,
        reply: &Reply,
    ) -> Result<T> {
        let read = serde_json::from_slice(&reply.body);
        read.or_else(|e| self.fail(format!("{}: the answer cannot be read: {e}", call.what)))
    }

    fn token_for(&self, url: &str) -> Option<&Token> {
        self.token
            .as_deref()
            .filter(|_| Origin::of(url).is_some_and(|origin| origin == self.origin))
    }

    /// Makes a request and reads the answer, once. The outer error is an interruption.
    pub(super) fn try_once(
        &self,
        call: &Call,
        progress: &dyn Progress,
    ) -> Result<std::result::Result<Reply, Failure>> {
        let (client, own) = (self.clone(), call.clone());
        apart(
            move || client.once(own),
            || {
                if let Content::Part(part) = &call.content {
                    progress.advance(part.newly_sent());
                }
            },
        )
    }

    fn once(&self, call: Call) -> std::result::Result<Reply, Failure> {
        if call.method == Method::GET {
            return read(self.follow(call.url, 0)?);
        }
        let mut request = Request::builder().method(call.method).uri(&call.url);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let given = call.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if let Some(token) = self.token_for(&call.url).filter(|_| call.authorized && !given) {
            request = request.header("Authorization", token.authorization());
        }
        let response = match &call.content {
            Content::Nothing => self.run(request.body(())),
            Content::Bytes(bytes, kind) => {
                self.run(request.header("Content-Type", *kind).body(&bytes[..]))
            }
            Content::Part(part) => {
                let mut bytes = part.reader().map_err(|e| failure(ureq::Error::Io(e)))?;
                // With a length; stores of objects take no chunks of unknown number.
                let request = request.header("Content-Length", part.len());
                self.run(request.body(SendBody::from_reader(&mut bytes)))
            }
        };
        read(response?)
    }

    fn run(
        &self,
        request: http::Result<Request<impl AsSendBody>>,
    ) -> std::result::Result<Response<Body>, Failure> {
        let request = request.map_err(|_| Failure::lasting("the address cannot be used"))?;
        self.agent.run(request).map_err(failure)
    }
}

/// What `job` gives. It runs in a thread of its own, which is left behind when the user interrupts: a server that does
/// not answer keeps nobody here. `tick` is called meanwhile and at the end.
fn apart<T: Send + 'static>(
    job: impl FnOnce() -> std::result::Result<T, Failure> + Send + 'static,
    tick: impl Fn(),
) -> Result<std::result::Result<T, Failure>> {
    let (send, receive) = mpsc::channel();
    // Nobody may listen any more.
    std::thread::spawn(move || drop(send.send(job())));
    loop {
        let outcome = receive.recv_timeout(Duration::from_millis(100));
        tick();
        match outcome {
            Ok(outcome) => return Ok(outcome),
            Err(RecvTimeoutError::Timeout) => check_interrupted()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Err(Failure::lasting("the request was given up")));
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

fn read(mut response: Response<Body>) -> std::result::Result<Reply, Failure> {
    let body =
        response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(failure)?;
    let status = response.status().as_u16();
    Ok(Reply { status, headers: std::mem::take(response.headers_mut()), body })
}

/// Where `headers` of an answer from `url` lead to: an address, or a path on the same server.
fn redirected(url: &str, headers: &HeaderMap) -> std::result::Result<String, Failure> {
    let nowhere =
        || Failure::lasting("the server redirects to no address, or one that is less safe");
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
    let (from, to) = (Origin::of(url).ok_or_else(nowhere)?, Origin::of(&target));
    if to.is_some_and(|to| to.secure || !from.secure) { Ok(target) } else { Err(nowhere()) }
}

/// Whether another try may get another answer than `status`.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

fn failure(error: ureq::Error) -> Failure {
    use std::io::ErrorKind;
    use ureq::Error as E;
    let retries = match &error {
        E::HostNotFound | E::ConnectionFailed => RETRIES_WITHOUT_SERVER,
        E::Io(e) if e.kind() == ErrorKind::ConnectionRefused => RETRIES_WITHOUT_SERVER,
        // Certificates that are not accepted come as such.
        E::Io(e) if e.kind() == ErrorKind::InvalidData => 0,
        E::Io(_) | E::Timeout(_) | E::Protocol(_) => RETRIES,
        _ => 0,
    };
    let text = match &error {
        // It has an address, which may be a secret.
        E::BadUri(_) => "the address cannot be used".to_string(),
        E::HostNotFound => "the server cannot be reached: there is no such host".to_string(),
        E::ConnectionFailed => "the server cannot be reached".to_string(),
        E::Io(e) if retries == RETRIES_WITHOUT_SERVER => {
            format!("the server cannot be reached: {e}")
        }
        error => format!("the connection failed: {error}"),
    };
    Failure { text, retries }
}

/// How long the server asks to wait: `Retry-After` in seconds or `t` of `RateLimit`
/// (draft-ietf-httpapi-ratelimit-headers).
pub(super) fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let limit = || header("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="));
    let seconds: u64 = header("retry-after").or_else(limit)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Waits before try number `tries` + 1: as long as the server asks, within reason, else half a second that doubles.
pub(super) fn pause(tries: u32, asked: Option<Duration>, progress: &dyn Progress) -> Result<()> {
    let own = Duration::from_millis(500 << tries.min(4));
    let wait = asked.unwrap_or(own).clamp(own, MAX_WAIT);
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

/// What a server says of its refusal.
fn said(reply: &Reply) -> Option<String> {
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
    fn origins_are_not_what_addresses_pretend() {
        let private = |url: &str| Origin::of(url).is_some_and(|origin| origin.is_private());
        for url in [
            "https://huggingface.co",
            "http://127.0.0.1:80/x",
            "http://[::1]:5000",
            "http://localhost",
            "https://10.0.0.1",
        ] {
            assert!(private(url), "{url}");
        }
        for url in [
            "http://huggingface.co",
            "http://127.0.0.1:80@evil.com/",
            "https://huggingface.co@evil.com",
            "http://localhost.evil.com",
            "http://0.0.0.0:1",
            "ftp://127.0.0.1",
            "127.0.0.1",
            "",
        ] {
            assert!(!private(url), "{url}");
        }
        let same = |a: &str, b: &str| Origin::of(a).unwrap() == Origin::of(b).unwrap();
        assert!(same("https://Hub.example", "https://hub.example:443/x"));
        for other in ["http://hub.example", "https://hub.example:8443", "https://a.hub.example"] {
            assert!(!same("https://hub.example", other), "{other}");
        }
    }

    #[test]
    fn servers_say_how_long_to_wait() {
        let wait = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            asked_wait(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("retry-after", "7"), Some(7));
        assert_eq!(wait("ratelimit", "\"api\";r=0;t=55"), Some(55));
        assert_eq!(wait("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(wait("date", "7"), None);
    }
}
