// Package agent works on a build host: it takes a job from the coordinator, has the local guix-daemon or nix-daemon build it, cuts
// and compresses the nars there, and uploads them. It will hold no signing key. It is not built yet.
package agent
