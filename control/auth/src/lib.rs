//! Who is asking, and may they: identities, certificates, tokens and authorization of the API.
//!
//! Everything here decides and nothing here stores: the state of the cluster is read through the small
//! view traits [`IdentityView`], [`RbacView`] and [`NodeView`], which the API server implements over a
//! snapshot. Follows upstream's `apiserver/pkg/authentication`, `plugin/pkg/auth` and `pkg/serviceaccount`.
//!
//! The parts, in the order in which a request meets them: [`tls`] (the handshake), [`authn`] (who),
//! [`impersonation`], [`authz`] (may they: [`node_authorizer`], then [`rbac`]), [`node_restriction`] and
//! [`escalation`] (admission of what only some may write).

pub mod attributes;
pub mod authn;
pub mod authority;
pub mod authz;
pub mod certificate;
pub mod escalation;
pub mod impersonation;
pub mod join;
pub mod node_authorizer;
pub mod node_restriction;
pub mod oidc;
pub mod policy;
pub mod rbac;
pub mod review;
pub mod tls;
pub mod token;
pub mod user;

pub use attributes::Attributes;
pub use authn::{Authenticator, AuthnError, IdentityView, Method};
pub use authority::{Authority, AuthorityError, AuthorityPem};
pub use authz::{Authorizer, Decision};
pub use certificate::{CertificateError, Issued};
pub use node_authorizer::NodeView;
pub use rbac::RbacView;
pub use token::{Bound, Claims, IssuedToken, TokenError, TokenSpec, Tokens};
pub use user::UserInfo;
