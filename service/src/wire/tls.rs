//! Who is at the other end: TLS 1.3 with certificates on both sides, from a private CA.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::error::WireError;

const ALPN: &[u8] = b"mig";

/// This host's certificate and key, and the CA that it trusts.
#[derive(Clone, Debug)]
pub struct Identity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: String,
}

/// How connections are protected.
#[derive(Clone, Debug)]
pub enum Security {
    /// TLS, both ends with certificates.
    Tls(Identity),
    /// Nothing: on loopback only.
    Insecure,
}

fn cannot(path: &Path, what: impl std::fmt::Display) -> WireError {
    WireError::Keys(format!("cannot use {}: {what}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let list = CertificateDer::pem_file_iter(path).map_err(|error| cannot(path, error))?;
    let list: Vec<_> = list.collect::<Result<_, _>>().map_err(|error| cannot(path, error))?;
    if list.is_empty() { Err(cannot(path, "there is no certificate in it")) } else { Ok(list) }
}

impl Identity {
    /// From a folder as `mig keys` makes it: `ca.pem`, `cert.pem`, `key.pem`.
    ///
    /// # Errors
    ///
    /// [`WireError::Keys`] names the file and what is wrong with it.
    pub fn from_folder(folder: &Path) -> Result<Self, WireError> {
        Self::from_files(&folder.join("ca.pem"), &folder.join("cert.pem"), &folder.join("key.pem"))
    }

    /// From PEM files: the CA's certificate, this host's certificate (and those between), its key.
    ///
    /// # Errors
    ///
    /// As for [`from_folder`](Self::from_folder).
    pub fn from_files(ca: &Path, cert: &Path, key: &Path) -> Result<Self, WireError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(ca)? {
            roots.add(root).map_err(|error| cannot(ca, error))?;
        }
        let chain = certificates(cert)?;
        let name = name_of(&chain[0]).ok_or_else(|| cannot(cert, "the certificate has no DNS name"))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| cannot(key, error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = [&rustls::version::TLS13];
        let tls = |error: rustls::Error| cannot(cert, error);
        let roots = Arc::new(roots);
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(tls)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), private.clone_key())
            .map_err(tls)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
        let verifier = verifier.map_err(|error| cannot(ca, error))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private)
            .map_err(tls)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Each connection proves who it is; there is nothing to resume.
        server.send_tls13_tickets = 0;
        Ok(Identity { client: Arc::new(client), server: Arc::new(server), name })
    }

    /// This host's name: the first DNS name in its certificate.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn client(&self, host: &str) -> Result<ClientConnection, WireError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| WireError::Tls(format!("{host:?} is no name that a certificate can have")))?;
        let connection = ClientConnection::new(self.client.clone(), name);
        connection.map_err(|error| WireError::Tls(error.to_string()))
    }

    pub(super) fn server(&self) -> Result<ServerConnection, WireError> {
        let connection = ServerConnection::new(self.server.clone());
        connection.map_err(|error| WireError::Tls(error.to_string()))
    }
}

/// The first DNS name of a certificate, which is what a host is called.
pub(super) fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_dns_names().next().map(str::to_owned)
}
