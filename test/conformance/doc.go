// Package conformance drives the shim's binary as containerd does, without
// containerd: it makes bundles, calls start and delete, speaks the task API over
// ttrpc and takes the events. Below the shim are the VMM's memory backend and a
// scripted agent, so that every story takes milliseconds and everything can be
// made to fail. After each story nothing of it may be left on the host.
//
// The environment variable SHIM names another shim binary to be driven, and
// CONFORMANCE_VMM another VMM to be launched by it, which is started like
// cloud-hypervisor and leads vsock connections to the scripted agents as that of
// package memory does. Both are for measuring side by side: make bench-shim.
package conformance
