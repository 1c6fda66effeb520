//! What all services share.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use marchproxy_proto::v1;
use tokio::sync::OwnedMutexGuard;
use tonic::Status;

use super::auth::Caller;
use super::dry_run::{Checked, dry_run};
use super::hub::Hub;
use super::meters::Meters;
use super::settings::Settings;
use super::standing::{Built, Standing};
use super::{confirm, errors};
use crate::pki::{Authority, PkiError};
use crate::store::{CertificateRow, ConfirmState, Store, StoreError, Stored, VersionRow};
use crate::{model, pki};

/// Store, authority and hub; clones share them.
#[derive(Clone, Debug)]
pub struct Control {
    /// Versions, identities, audit.
    pub store: Store,
    /// Issues certificates.
    pub authority: Arc<Authority>,
    /// The nodes.
    pub hub: Hub,
    /// What it counts of its own work.
    pub meters: Meters,
    /// As configured.
    pub settings: Arc<Settings>,
    /// Held while a cluster's document changes, so that versions reach the hub in order.
    changing: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
    standing: Arc<Mutex<HashMap<String, Kept>>>,
}

/// A cluster's [`Standing`], if it has one; held while the next one is made.
type Kept = Arc<tokio::sync::Mutex<Option<Standing>>>;

/// Why control does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The state directory cannot be made.
    #[error(
        "cannot make the state directory {path}: {why}; run as the user it belongs to, or choose another with --state-dir"
    )]
    StateDir {
        /// Which directory.
        path: std::path::PathBuf,
        /// The system's words.
        why: std::io::Error,
    },
    /// Keys or certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address is taken or not ours.
    #[error("cannot listen on {listen}: {why}; is another control running (`ss -ltnp`)? choose another with {option}")]
    Listen {
        /// The address.
        listen: std::net::SocketAddr,
        /// The option that names it.
        option: &'static str,
        /// The system's words.
        why: std::io::Error,
    },
    /// gRPC or TLS.
    #[error("cannot serve: {0}")]
    Serve(String),
}

impl Control {
    /// Opens (at the first start: makes) authority, database and the first operator's certificate.
    pub async fn open(settings: Settings) -> Result<Control, StartError> {
        let dir = settings.state_dir.clone();
        make_private_dir(&dir).map_err(|why| StartError::StateDir { path: dir.clone(), why })?;
        let authority = Authority::open(&dir, settings.certificate_days)?;
        let store = Store::open(&settings.database_url()).await?;
        let hub = Hub::new(store.clone(), settings.timings());
        let control = Control {
            store,
            authority: Arc::new(authority),
            hub,
            meters: Meters::default(),
            settings: Arc::new(settings),
            changing: Arc::default(),
            standing: Arc::default(),
        };
        // Not "the file is missing": whoever moves it to another machine wants no second one to appear.
        let known = control.store.certificates("default").await?;
        if !known.iter().any(|certificate| certificate.role == "operator") {
            let admin = pki::Identity::new("default", pki::Role::Operator, "admin")?;
            control.issue_operator(&admin, &dir).await?;
            tracing::info!(certificate = %dir.join("operator-admin.pem").display(), "made the first operator's certificate");
        }
        Ok(control)
    }

    /// Makes an operator's key and certificate on this host.
    pub async fn issue_operator(&self, who: &pki::Identity, into: &std::path::Path) -> Result<(), StartError> {
        let issued = self.authority.issue_operator_files(who, into)?;
        self.record(who, &issued).await?;
        self.store.audit(&who.cluster, "control", &format!("issue {who} serial {}", issued.serial), "done").await?;
        Ok(())
    }

    /// Notes an issued certificate.
    pub async fn record(&self, who: &pki::Identity, issued: &pki::Issued) -> Result<(), StoreError> {
        self.store
            .add_certificate(CertificateRow {
                serial: issued.serial.clone(),
                cluster: who.cluster.clone(),
                role: who.role.as_str().to_owned(),
                name: who.name.clone(),
                not_after: issued.not_after,
                revoked_at: None,
            })
            .await
    }

    /// The lock under which the cluster's document changes.
    pub fn changing(&self, cluster: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(cluster.to_owned()).or_default())
    }

    /// What is kept of the cluster's newest version, or of an older one. Waits until it is ready; taken out, it is the caller's to put back.
    pub async fn standing(&self, cluster: &str) -> OwnedMutexGuard<Option<Standing>> {
        self.kept(cluster).lock_owned().await
    }

    fn kept(&self, cluster: &str) -> Kept {
        let mut all = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(cluster.to_owned()).or_default())
    }

    /// Gets ready for changes of a version that went the way of whole documents; nobody waits for it.
    pub fn keep(&self, cluster: &str, (version, hash): (u64, &str), built: BTreeMap<String, Built>) {
        let (kept, document) = (self.kept(cluster), self.store.newest(cluster, version, hash));
        let hash = hash.to_owned();
        tokio::spawn(async move {
            let mut standing = kept.lock_owned().await;
            *standing = None;
            let Some(document) = document.filter(|_| !built.is_empty()) else { return };
            tokio::task::spawn_blocking(move || *standing = Standing::new(&document, version, &hash, built));
        });
    }

    /// The stored document: a version, or the newest for 0.
    pub async fn stored(&self, cluster: &str, version: u64) -> Result<Stored, Status> {
        let found = match version {
            0 => self.store.current(cluster).await,
            version => self.store.version(cluster, version).await,
        };
        found.map_err(|e| errors::store(&e))?.ok_or_else(|| errors::no_version(cluster, version))
    }

    /// Brings the hub's target up to the newest stored version: at the first call after a start, and whenever another control
    /// stored one.
    pub async fn sync(&self, cluster: &str) -> Result<(), Status> {
        self.hub.touch(cluster);
        let Some(newest) = self.newest(cluster).await? else { return Ok(()) };
        if newest.version <= self.hub.version(cluster) {
            // Another control may have been asked to confirm it.
            if newest.confirmation.is_some_and(|found| found.state == ConfirmState::Confirmed) {
                self.hub.confirm(cluster, newest.version);
            }
            return Ok(());
        }
        let changing = self.changing(cluster);
        let _held = changing.lock().await;
        let Some(stored) = self.store.current(cluster).await.map_err(|e| errors::store(&e))? else { return Ok(()) };
        if stored.version <= self.hub.version(cluster) {
            return Ok(());
        }
        let (version, hash) = (stored.version, stored.content_hash);
        let waits = self.newest(cluster).await?.filter(|row| row.version == version && row.waits());
        let until = waits.and_then(|row| row.confirmation).map(|waits| confirm::until(&waits));
        let checked = check(Arc::new(stored.document)).await?;
        self.hub.publish(cluster, version, checked.nodes, until);
        self.keep(cluster, (version, &hash), checked.built);
        tracing::info!(cluster, version, "loaded the newest version");
        if let Some(until) = until {
            confirm::arm(self, cluster, version, until);
        }
        Ok(())
    }

    async fn newest(&self, cluster: &str) -> Result<Option<VersionRow>, Status> {
        let newest = self.store.history(cluster, 1).await.map_err(|e| errors::store(&e))?;
        Ok(newest.into_iter().next())
    }

    /// Looks at the database from time to time, until the hub closes.
    pub async fn poll(self) {
        let mut closing = self.hub.closing();
        let mut tick = tokio::time::interval(self.settings.timings().poll);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said: HashMap<String, String> = HashMap::new();
        // Nobody may ask about a cluster whose version waits for confirmation, so the first look is ours.
        let mut looked = false;
        loop {
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => return,
                _ = tick.tick() => {}
            }
            if !looked {
                looked = match self.store.waiting().await {
                    Ok(clusters) => {
                        for cluster in &clusters {
                            self.hub.touch(cluster);
                        }
                        true
                    }
                    Err(why) => {
                        tracing::error!(%why, "cannot look for versions that wait for confirmation");
                        false
                    }
                };
            }
            self.meters.looks();
            for cluster in self.hub.clusters() {
                match self.sync(&cluster).await {
                    Ok(()) => drop(said.remove(&cluster)),
                    // Once per trouble, not once per second.
                    Err(why) if said.get(&cluster).is_some_and(|before| before == why.message()) => {}
                    Err(why) => {
                        tracing::error!(cluster, why = why.message(), "cannot load the newest version");
                        said.insert(cluster.clone(), why.message().to_owned());
                    }
                }
                self.hub.end_revoked(&cluster).await;
            }
        }
    }

    /// Writes what somebody did into the audit trail; a failure is logged, because what was done is done.
    pub async fn audit(&self, cluster: &str, caller: &Caller, what: &str) {
        if let Err(why) = self.store.audit(cluster, caller.author(), what, "done").await {
            tracing::error!(cluster, author = caller.author(), what, %why, "cannot write the audit trail");
        }
    }
}

/// Runs the dry run off the async threads.
pub async fn check(document: Arc<v1::Document>) -> Result<Checked, Status> {
    tokio::task::spawn_blocking(move || dry_run(&document))
        .await
        .map_err(|_| Status::internal("the dry run ended unexpectedly; please report this document"))?
}

/// Microseconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// A moment as the contract writes it.
pub fn timestamp(micros: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(1_000_000)).unwrap_or(0) * 1_000;
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

/// A version as the contract writes it.
pub fn version_info(row: VersionRow) -> v1::VersionInfo {
    let state = match row.confirmation.as_ref().map(|found| found.state) {
        None => v1::Confirmation::Unspecified,
        Some(ConfirmState::Pending) => v1::Confirmation::Pending,
        Some(ConfirmState::Confirmed) => v1::Confirmation::Confirmed,
        Some(ConfirmState::Reverted) => v1::Confirmation::Reverted,
    };
    v1::VersionInfo {
        version: row.version,
        content_hash: row.content_hash,
        author: row.author,
        at: Some(timestamp(row.at)),
        message: row.message,
        rollback_of: row.rollback_of,
        objects: row.objects,
        confirmation: state.into(),
        confirm_by: row.confirmation.map(|found| timestamp(found.deadline)),
    }
}

/// The newest document to change, or an empty one of the cluster.
pub async fn base(control: &Control, cluster: &str) -> Result<v1::Document, Status> {
    let current = control.store.current(cluster).await.map_err(|e| errors::store(&e))?;
    Ok(current.map_or_else(
        || v1::Document {
            api_version: model::API_VERSION.to_owned(),
            cluster: cluster.to_owned(),
            ..v1::Document::default()
        },
        |stored| stored.document,
    ))
}

fn make_private_dir(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
