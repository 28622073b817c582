//! Origins of servers: which addresses may see the token.

use ureq::http::Uri;

/// Scheme, host and port of an address. The token is sent to one origin only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerOrigin {
    /// Whether the scheme is https.
    pub(super) secure: bool,
    host: String,
    port: u16,
}

impl ServerOrigin {
    /// The origin of `url`; `None` if it is no plain http or https address.
    pub(super) fn of(url: &str) -> Option<ServerOrigin> {
        let uri: Uri = url.parse().ok()?;
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        // In `http://a@b`, the host is b, although a looks like it.
        (!authority.as_str().contains('@') && !authority.host().is_empty()).then(|| ServerOrigin {
            secure,
            host: authority.host().to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
        })
    }

    /// Whether others cannot read what is sent: it is encrypted, or stays on this machine.
    pub(super) fn is_private(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']');
        let loopback = |text: &str| text.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        self.secure || self.host == "localhost" || loopback(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_found_in_misleading_addresses() {
        let private = |url: &str| ServerOrigin::of(url).is_some_and(|origin| origin.is_private());
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
        let same = |a: &str, b: &str| ServerOrigin::of(a).unwrap() == ServerOrigin::of(b).unwrap();
        assert!(same("https://Hub.example", "https://hub.example:443/x"));
        for other in ["http://hub.example", "https://hub.example:8443", "https://a.hub.example"] {
            assert!(!same("https://hub.example", other), "{other}");
        }
    }
}
