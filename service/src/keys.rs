//! `mig keys`: a small private CA, and certificates for hosts, in one command.
//!
//! For those who have no CA of their own. What comes out is ordinary: ECDSA keys, PEM files, one folder for each host
//! with all that it needs. The CA's key stays where it was made.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::problem::Problem;

/// Certificates are valid from a little before now, for clocks that are behind.
const BEFORE: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// The CA outlives its hosts' certificates.
const CA_DAYS: u32 = 3650;

/// A host that is to have a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What it is called: the folder's name, and the first DNS name.
    pub name: String,
    /// Further names and addresses that it is reached by.
    pub also: Vec<String>,
}

impl std::str::FromStr for Host {
    type Err = String;

    /// `NAME` or `NAME=ADDRESS,ADDRESS`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, also) = text.split_once('=').unwrap_or((text, ""));
        if !crate::wire::hello::is_vm_name(name) || name == "ca" {
            return Err(format!(
                "{name:?} is no name for a host: letters, digits, '.', '_' and '-' are allowed"
            ));
        }
        let also = also.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Ok(Host { name: name.to_owned(), also })
    }
}

/// Makes certificates for hosts in `folder`, and the CA if there is none. Gives the hosts' folders.
///
/// # Errors
///
/// Names that can't be in a certificate, a host's folder that is there already, files that can't be written.
pub fn make(folder: &Path, hosts: &[Host], days: u32) -> Result<Vec<PathBuf>> {
    make_folder(folder)?;
    let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
    if !certificate.exists() && !key.exists() {
        let (params, pair) = ca()?;
        let made = params.self_signed(&pair).context("cannot make the CA's certificate")?;
        write(&key, &pair.serialize_pem(), 0o600)?;
        write(&certificate, &made.pem(), 0o644)?;
    }
    let read =
        |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let (ca_pem, key_pem) = (read(&certificate)?, read(&key)?);
    let pair = KeyPair::from_pem(&key_pem).with_context(|| format!("cannot use {}", key.display()))?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, pair);
    let issuer = issuer.with_context(|| format!("cannot use {}", certificate.display()))?;
    let mut made = Vec::new();
    for host in hosts {
        let to = folder.join(&host.name);
        if to.exists() {
            let text = format!("{} exists; remove it first if its key is to be replaced", to.display());
            return Err(Problem::Usage(text).into());
        }
        let (cert, key) = signed(host, &issuer, validity(days))?;
        make_folder(&to)?;
        write(&to.join("key.pem"), &key, 0o600)?;
        write(&to.join("cert.pem"), &cert, 0o644)?;
        write(&to.join("ca.pem"), &ca_pem, 0o644)?;
        made.push(to);
    }
    Ok(made)
}

/// The CA's parameters and key.
fn ca() -> Result<(CertificateParams, KeyPair)> {
    let mut params = CertificateParams::new(Vec::new()).context("cannot describe the CA")?;
    params.distinguished_name.push(DnType::CommonName, "MiG private CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, validity(CA_DAYS));
    Ok((params, KeyPair::generate().context("cannot make a key")?))
}

/// From when until when a certificate is valid that is made now.
fn validity(days: u32) -> [SystemTime; 2] {
    let now = SystemTime::now();
    [now - BEFORE, now + DAY * days]
}

fn set_validity(params: &mut CertificateParams, [from, until]: [SystemTime; 2]) {
    params.not_before = from.into();
    params.not_after = until.into();
}

/// A host's certificate and key in PEM, valid between two points in time.
///
/// # Errors
///
/// Names that can't be in a certificate.
pub fn signed(host: &Host, issuer: &Issuer<'_, KeyPair>, valid: [SystemTime; 2]) -> Result<(String, String)> {
    let mut params = CertificateParams::new(vec![host.name.clone()])
        .with_context(|| format!("{} can't be in a certificate", host.name))?;
    for also in &host.also {
        params.subject_alt_names.push(match also.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(
                also.clone().try_into().with_context(|| format!("{also} can't be in a certificate"))?,
            ),
        });
    }
    params.distinguished_name.push(DnType::CommonName, &host.name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A host sends and receives.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    set_validity(&mut params, valid);
    let pair = KeyPair::generate().context("cannot make a key")?;
    let certificate = params.signed_by(&pair, issuer).context("cannot sign a certificate")?;
    Ok((certificate.pem(), pair.serialize_pem()))
}

fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new().mode(0o700).create(folder);
    made.with_context(|| format!("cannot make the folder {}", folder.display()))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
