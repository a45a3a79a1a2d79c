// Package brand makes the texts of docker/cli's command tree say shoal where they say docker.
//
// It decides which words of whom are changed: help, errors, and the messages of the few commands that print advice
// (see [Cli]). It never touches what a user's container, image or service has printed or is called, and never a name
// that belongs to Docker: docker.io, Docker Hub, com.docker.* labels, DOCKER_* variables.
package brand

import (
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// phrases are texts that name the product without naming a command.
var phrases = strings.NewReplacer(
	"Cannot connect to the Docker daemon at", "Cannot connect to the Shoal daemon at",
	"Is the docker daemon running?", "Is shoald running?",
	"failed to connect to the docker API at", "failed to connect to the Shoal API at",
	"trying to connect to the docker API at", "trying to connect to the Shoal API at",
	"Cannot connect to the Docker daemon. Is the docker daemon running on this host?", "Cannot connect to the Shoal daemon. Is shoald running on this host?",
	"the Docker host's", "the host's",
	"Docker daemon", "Shoal daemon",
	"docker daemon", "Shoal daemon",
	"Manage Docker image manifests", "Manage Docker image manifests", // the format's name; the first match counts
	"Manage Docker", "Manage Shoal",
	"Show the Docker version", "Show the Shoal version",
	"on Docker objects", "on Shoal objects",
	"Show docker disk usage", "Show disk usage",
	"run the same docker engine version", "run the same version of Shoal",
)

// Texts changes texts for one command tree. The zero value is not usable; [New] makes one.
type Texts struct{ command *regexp.Regexp }

// New makes the texts of a tree's commands: "docker image ls" becomes "shoal image ls" because the tree has a command
// `image`. Making them costs a compiled expression, so it is done only when there is something to say.
func New(root *cobra.Command) *Texts {
	var names []string
	for _, c := range root.Commands() {
		names = append(names, regexp.QuoteMeta(c.Name()))
	}
	slices.Sort(names)
	// Not preceded by what makes it a part of a name or a path, such as com.docker.swarm or /usr/bin/docker.
	return &Texts{regexp.MustCompile(`(^|[^\w./-])docker((?: --?\w[\w-]*(?:=\S*)?)* (?:` + strings.Join(names, "|") + `)\b)`)}
}

// Text changes one text.
func (t *Texts) Text(s string) string {
	if !strings.Contains(s, "ocker") {
		return s
	}
	s = phrases.Replace(s)
	s = t.command.ReplaceAllString(s, "${1}shoal${2}")
	if rest, ok := strings.CutPrefix(s, "docker: "); ok { // how `run` begins its errors
		s = "shoal: " + rest
	}
	return s
}

// Command changes the help of one command and what it says of its children.
func (t *Texts) Command(c *cobra.Command) {
	t.one(c)
	for _, child := range c.Commands() {
		child.Short = t.Text(child.Short)
	}
}

// Tree changes the help of every command.
func (t *Texts) Tree(c *cobra.Command) {
	t.one(c)
	for _, child := range c.Commands() {
		t.Tree(child)
	}
}

func (t *Texts) one(c *cobra.Command) {
	for _, s := range []*string{&c.Use, &c.Short, &c.Long, &c.Example, &c.Deprecated} {
		*s = t.Text(*s)
	}
	if a := c.Annotations["aliases"]; a != "" {
		c.Annotations["aliases"] = t.Text(a)
	}
	flag := func(f *pflag.Flag) {
		f.Usage, f.Deprecated = t.Text(f.Usage), t.Text(f.Deprecated)
	}
	c.LocalNonPersistentFlags().VisitAll(flag)
	c.PersistentFlags().VisitAll(flag)
}

// Error changes the text of an error and keeps everything else of it: its class, its exit code.
func (t *Texts) Error(err error) error {
	if err == nil {
		return nil
	}
	if s := t.Text(err.Error()); s != err.Error() {
		return &renamed{err, s}
	}
	return err
}

type renamed struct {
	error
	text string
}

func (r *renamed) Error() string { return r.text }
func (r *renamed) Unwrap() error { return r.error }
