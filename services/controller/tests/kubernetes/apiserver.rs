//! A real kube-apiserver with a real etcd, on loopback, in a folder that goes with it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, Config};
use serde_json::json;
use tempfile::TempDir;

use crate::world::World;

/// How long the servers may take to answer, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(180);
const TOKEN: &str = "a-token-of-this-test";

/// Ended by its id when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // An apiserver that lost its etcd hangs on any milder signal.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The two servers. The apiserver is the first field, so that it ends first.
pub(crate) struct Server {
    _apiserver: Process,
    _etcd: Process,
    client: Client,
    port: u16,
    folder: TempDir,
}

/// Where the two programs are: where `KUBEBUILDER_ASSETS` says, or where `tests/cluster/build` puts them.
fn assets() -> Option<PathBuf> {
    let of_repository = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache");
    let cache = std::env::var_os("VERDIGRIS_CACHE").map_or_else(of_repository, PathBuf::from);
    let named = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| cache.join("cluster/bin"));
    let is_there = |program: &str| folder.join(program).exists();
    (is_there("kube-apiserver") && is_there("etcd")).then_some(folder)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

fn start(program: &Path, arguments: &[String], log: &Path) -> Process {
    let log = fs::File::create(log).expect("the folder is ours");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let errors = log.try_clone().expect("a file can be opened twice");
    command.stdout(Stdio::from(log)).stderr(Stdio::from(errors));
    Process(command.spawn().expect("the program runs"))
}

impl Server {
    /// Starts both; none where there are no programs.
    pub(crate) async fn start() -> Option<Self> {
        let Some(assets) = assets() else {
            println!("skipped: kubernetes: no folder with kube-apiserver and etcd: tests/cluster/build makes one");
            return None;
        };
        let folder = TempDir::new().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        let text = |name: &str| path(name).display().to_string();
        let (clients, peers, secure) = (free_port(), free_port(), free_port());
        let etcd = [
            format!("--data-dir={}", text("etcd")),
            format!("--listen-client-urls=http://127.0.0.1:{clients}"),
            format!("--advertise-client-urls=http://127.0.0.1:{clients}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peers}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peers}"),
            "--unsafe-no-fsync=true".to_owned(),
        ];
        let etcd = start(&assets.join("etcd"), &etcd, &path("etcd.log"));
        // With which tokens of service accounts are signed. There are none, but the server asks for it.
        let pair = rcgen::KeyPair::generate().expect("a key");
        fs::write(path("sa.key"), pair.serialize_pem()).expect("the folder is ours");
        fs::write(path("sa.pub"), pair.public_key_pem()).expect("the folder is ours");
        fs::write(path("tokens.csv"), format!("{TOKEN},admin,0,system:masters\n")).expect("the folder is ours");
        let apiserver = [
            format!("--etcd-servers=http://127.0.0.1:{clients}"),
            format!("--secure-port={secure}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", text("certificates")),
            format!("--service-account-key-file={}", text("sa.pub")),
            format!("--service-account-signing-key-file={}", text("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=198.19.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", text("tokens.csv")),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        let apiserver = start(&assets.join("kube-apiserver"), &apiserver, &path("apiserver.log"));
        let uri = format!("https://127.0.0.1:{secure}").parse().expect("an address");
        let mut config = Config::new(uri);
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(TOKEN.to_owned().into());
        let client = Client::try_from(config).expect("a client");
        let log = path("apiserver.log");
        let server = Self {
            _apiserver: apiserver,
            _etcd: etcd,
            client,
            port: secure,
            folder,
        };
        server.wait(&log).await;
        Some(server)
    }

    async fn wait(&self, log: &Path) {
        let began = Instant::now();
        loop {
            let ready = tonic::codegen::http::Request::get("/readyz")
                .body(Vec::new())
                .expect("a request");
            match self.client.request_text(ready).await {
                Ok(_) => return,
                Err(error) if began.elapsed() > PATIENCE => {
                    let log = fs::read_to_string(log).unwrap_or_default();
                    let end: Vec<&str> = log.lines().rev().take(20).collect();
                    panic!("the apiserver does not answer: {error}\n{}", end.join("\n"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Applies what `--print-crd` prints, and waits until it is served.
    pub(crate) async fn install_definition(&self) {
        // Sent as the text that is printed: the server reads the YAML itself.
        let name = "collections.verdigris.dev";
        let path =
            format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?fieldManager=test&force=true");
        let request = tonic::codegen::http::Request::patch(path)
            .header("content-type", "application/apply-patch+yaml")
            .body(verdigris_controller::kubernetes::crd_yaml().into_bytes())
            .expect("a request");
        self.client.request_text(request).await.expect("a valid definition");
        let api: Api<CustomResourceDefinition> = Api::all(self.client());
        let established = kube::runtime::wait::conditions::is_crd_established();
        let waited = kube::runtime::wait::await_condition(api, name, established);
        tokio::time::timeout(PATIENCE, waited)
            .await
            .expect("in time")
            .expect("it is established");
    }

    /// A namespace with a store and nodes of its own.
    pub(crate) async fn world(&self, name: &str) -> World {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port), "insecure-skip-tls-verify": true,
            }}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin", "namespace": name}}],
        });
        let kubeconfig = self.folder.path().join(format!("{name}.kubeconfig"));
        fs::write(&kubeconfig, config.to_string()).expect("the folder is ours");
        World::new(self.client(), name, kubeconfig).await
    }
}
