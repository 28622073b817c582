//! A small HTTP server for tests of HTTP clients. Each connection carries one request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

/// A request whose head was read, and its connection.
pub(crate) struct Exchange {
    pub method: String,
    /// The path with the query.
    pub path: String,
    headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
}

impl Exchange {
    /// Reads the head of a request.
    fn begin(stream: TcpStream) -> io::Result<Exchange> {
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
            lines.push(line.trim().to_string());
        }
        let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ');
        let mut word = || words.next().unwrap_or_default().to_string();
        let (method, path) = (word(), word());
        let headers = lines.iter().skip(1).filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_string()))
        });
        Ok(Exchange { method, path, headers: headers.collect(), reader })
    }

    /// The value of the header `name`; empty if it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// Reads the next `len` bytes of the body; fewer if the client closes the connection.
    pub(crate) fn read(&mut self, len: usize) -> Vec<u8> {
        let mut body = Vec::new();
        // The caller checks the length.
        let _ = (&mut self.reader).take(len as u64).read_to_end(&mut body);
        body
    }

    /// Reads the whole body, of known length or in chunks.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        if let Ok(len) = self.header("content-length").parse() {
            return self.read(len);
        }
        let mut body = Vec::new();
        while self.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
            let mut line = String::new();
            let read = self.reader.read_line(&mut line);
            let len = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
            if read.is_err() || len == 0 {
                break;
            }
            body.extend(self.read(len));
            self.read(2);
        }
        body
    }

    /// Sends an answer. With `cut`, only that many bytes of the body.
    pub(crate) fn answer(
        &mut self,
        status: u16,
        headers: &[(&str, &str)],
        body: &[u8],
        cut: Option<usize>,
    ) {
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "HTTP/1.1 {status} -\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
            body.len()
        );
        let stream = self.reader.get_mut();
        // The client may have closed the connection.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&body[..cut.unwrap_or(usize::MAX).min(body.len())]);
    }
}

/// Serves requests on a free port until the test ends, each in a thread. Returns the address.
pub(crate) fn serve(handle: impl Fn(&mut Exchange) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let handle = std::sync::Arc::new(handle);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let handle = std::sync::Arc::clone(&handle);
            std::thread::spawn(move || {
                if let Ok(mut exchange) = Exchange::begin(stream) {
                    handle(&mut exchange);
                }
            });
        }
    });
    endpoint
}
