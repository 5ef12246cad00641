//! `nodecert` takes a host, at boot, from nothing to verified certificates and working configuration.
//!
//! The map of the house. `run` is the program, to be read from top to bottom; it alone calls the rooms that
//! do I/O, and arrows go down this list only:
//!
//! | room | does |
//! |---|---|
//! | [`cli`] | \[pure\] the command line, which also feeds the man page and completions |
//! | [`man`] | \[pure\] the manual, from the command line and the reference |
//! | [`run`](mod@run) | **the flow**: survey, obtain, commit, render, report |
//! | [`disk`] | \[I/O: files\] lock, held pairs, pending requests, the commit, trust and rendered files, state |
//! | [`hooks`] | \[I/O: processes\] what is started: an argv, never a shell |
//! | [`quorum`] | \[I/O: net\] whether a member of an etcd cluster may restart now: the others' health, the cluster's lock |
//! | [`report`] | \[pure\] text, JSON, metrics and exit codes |
//! | [`sandbox`] | \[pure\] where the units may write: the drop-in for a configuration |
//! | [`render`] | \[pure\] YAML, environment files and templates |
//! | [`plan`] | \[pure\] verdicts, a chain of checks with reasons |
//! | [`node`] | \[pure\] configuration and facts to everything this host is to hold |
//! | [`config`] | \[pure\] TOML texts to the configuration; every fault at once |
//! | [`ca`] | \[I/O: net\] the CAs: settings, deadline, backoff, failover; one file a protocol in `ca/` |
//! | [`component`] | \[pure\] etcd, kubelet …: one file a component |
//! | [`keepsake`] | \[entropy\] what is made once and then kept: a key that no one signs, a token |
//! | [`file`](mod@file) | \[pure\] one rendered file that is wanted |
//! | [`certificate`] | \[pure\] one certificate that is wanted: what it says, where it lies, whose it is |
//! | [`deed`] | \[pure\] who is told of a change, and how |
//! | [`https`] | \[I/O: net\] one HTTPS client for all: whom it trusts, bounded in time and size |
//! | [`bundle`] | \[pure\] pairs, the judge, bundles |
//! | [`trust`] | \[pure\] anchors and pins |
//! | [`key`] | \[entropy\] keys, requests, pending requests |
//! | [`identity`] | \[pure\] what one certificate is to say |
//! | [`facts`] | \[I/O: host\] names, addresses and machine id of this host |
//! | [`setting`] | \[pure\] what settings are made of: names, templates, secrets, faults |
//! | [`root`] | \[I/O: files\] the directory everything lies below |
//! | [`stop`] | \[I/O: signals\] the word to end before the time |
//! | [`clock`] | \[I/O: time\] the clock |

pub mod bundle;
pub mod ca;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod component;
pub mod config;
pub mod deed;
pub mod disk;
pub mod facts;
pub mod file;
pub mod hooks;
pub mod https;
pub mod identity;
pub mod keepsake;
pub mod key;
pub mod man;
pub mod node;
pub mod plan;
pub mod quorum;
pub mod render;
pub mod report;
pub mod root;
pub mod run;
pub mod sandbox;
pub mod setting;
pub mod stop;
pub mod trust;
