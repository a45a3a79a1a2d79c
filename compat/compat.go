// Package compat holds Shoal to clients that nobody here wrote: the docker client at the version that shoal is built
// on, the one of the machine, docker-py, and Compose, each against a shoald of its own that really runs.
//
// It decides nothing. Its tests say which commands are tried (testdata/docker, one script a resource, run with every
// docker client) and which programs stand for whom. It owns hosts beside the lab (lab.Solo) while a test runs.
package compat
