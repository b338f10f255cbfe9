//! What `kubectl verdigris` asks of the cluster: the Collection as it stands, and a command that its controller answers.

use std::time::Duration;

use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Config};
use serde_json::json;

pub use super::command::{Command, Verb};
use super::names;
use super::resource::{Collection, CommandStatus};

/// How often the answer is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// Why the cluster did not answer.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No cluster is known.
    #[error("no cluster: neither a kubeconfig nor a service account")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no such Collection in the namespace.
    #[error("there is no Collection {0}")]
    NotFound(String),
    /// The API refused or did not answer.
    #[error("the Kubernetes API")]
    Api(#[from] kube::Error),
    /// The controller did not answer in time.
    #[error("no controller answered within {0} seconds; the command stays until one does")]
    Unanswered(u64),
}

/// Collections of one namespace.
pub struct Plugin {
    api: Api<Collection>,
}

impl Plugin {
    /// Through the kubeconfig of the environment, in a namespace or the one that it says.
    pub async fn connect(namespace: Option<&str>, context: Option<&str>) -> Result<Self, PluginError> {
        let unknown = |error: Box<dyn std::error::Error + Send + Sync>| PluginError::Unknown(error);
        let config = match context {
            None => Config::infer().await.map_err(|error| unknown(Box::new(error)))?,
            Some(context) => {
                let options = kube::config::KubeConfigOptions {
                    context: Some(context.to_owned()),
                    ..kube::config::KubeConfigOptions::default()
                };
                let config = Config::from_kubeconfig(&options).await;
                config.map_err(|error| unknown(Box::new(error)))?
            }
        };
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        Ok(Self::new(Client::try_from(config)?, &namespace))
    }

    /// Through a client.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
        }
    }

    /// All of the namespace.
    pub async fn list(&self) -> Result<Vec<Collection>, PluginError> {
        Ok(self.api.list(&ListParams::default()).await?.items)
    }

    /// One of them.
    pub async fn get(&self, name: &str) -> Result<Collection, PluginError> {
        self.api
            .get_opt(name)
            .await?
            .ok_or_else(|| PluginError::NotFound(name.to_owned()))
    }

    /// Writes a command and waits for its answer.
    pub async fn ask(&self, name: &str, command: &Command, limit: Duration) -> Result<CommandStatus, PluginError> {
        let text = serde_json::to_string(command).map_err(kube::Error::SerdeError)?;
        let patch = Patch::Merge(json!({"metadata": {"annotations": {names::COMMAND: text}}}));
        match self.api.patch(name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(PluginError::NotFound(name.to_owned())),
            patched => patched?,
        };
        let answered = async {
            loop {
                let status = self.api.get(name).await?.status;
                let answer = status.and_then(|status| status.command);
                let answer = answer.filter(|answer| answer.id == command.id && answer.outcome != "Pending");
                if let Some(answer) = answer {
                    return Ok::<_, PluginError>(answer);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let answered = tokio::time::timeout(limit, answered).await;
        answered.map_err(|_| PluginError::Unanswered(limit.as_secs()))?
    }
}
