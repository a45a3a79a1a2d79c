// Package shoal_test holds the rules of the repository that a compiler does not know: which package may import which,
// and what every file keeps to. DESIGN and CONTRIBUTING say why.
package shoal_test

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "shoal.dev/shoal"

// layers says, for every package, which of our packages it may import. Imports point down. "x/*" is everything below
// x. The first row that fits holds; a package that fits none is new and wants a row.
var layers = []struct {
	pkg  string
	uses []string
}{
	{"internal/cron", nil},
	{"internal/cluster", []string{"internal/cron"}},
	{"internal/store", []string{"internal/cluster"}},
	{"internal/consensus", []string{"internal/cluster", "internal/store"}},
	{"internal/pki", []string{"internal/cluster"}},
	{"internal/link", []string{"internal/cluster", "internal/pki"}},
	{"internal/template", []string{"internal/cluster"}},
	{"internal/control", []string{"internal/cluster", "internal/engine", "internal/store", "internal/pki", "internal/template"}},
	{"internal/tasklog", []string{"internal/cluster", "internal/control", "internal/engine", "internal/link"}},
	// A dry run is the API over a copy of the records.
	{"internal/dryrun", []string{"internal/cluster", "internal/control", "internal/httpapi", "internal/network/local", "internal/store"}},
	// The contracts of the engine and the network know no implementation; an implementation knows its contract.
	{"internal/engine", nil},
	{"internal/engine/*", []string{"internal/engine", "internal/engine/*"}},
	{"internal/network", []string{"internal/cluster"}},
	// They look at a host, also for a client where no daemon runs.
	{"internal/network/firewall", nil},
	{"internal/network/sockets", nil},
	{"internal/doctor", []string{"internal/network/firewall", "internal/network/sockets"}},
	{"internal/network/*", []string{"internal/network", "internal/network/*", "internal/engine"}},
	// The runner knows no planner, and no planner knows another, nor who asks or who listens.
	{"internal/reconcile", []string{"internal/cluster", "internal/store"}},
	// Where tasks could go, the planner that places them says.
	{"internal/reconcile/rebalance", []string{"internal/cluster", "internal/store", "internal/reconcile", "internal/reconcile/placement"}},
	{"internal/reconcile/*", []string{"internal/cluster", "internal/store", "internal/reconcile"}},
	// A manager and an agent share the words that they say to each other, and nothing else.
	{"internal/dispatch/protocol", []string{"internal/cluster", "internal/network", "internal/store"}},
	{"internal/dispatch/*", []string{"internal/link"}},
	{"internal/dispatch", []string{"internal/cluster", "internal/dispatch/protocol", "internal/link", "internal/network", "internal/store"}},
	{"internal/agent", []string{"internal/cluster", "internal/dispatch/protocol", "internal/engine", "internal/network", "internal/template"}},
	// The API declares what it needs of others and holds no policy.
	{"internal/httpapi/apitest", []string{"internal/httpapi", "internal/httpapi/*", "internal/doctor", "internal/engine", "internal/engine/volume", "internal/control", "internal/store", "internal/cluster",
		"internal/network/fake", "internal/network/local"}},
	{"internal/httpapi/*", nil},
	{"internal/httpapi", []string{"internal/httpapi/*", "internal/control", "internal/cluster", "internal/doctor", "internal/engine"}},
	// The simulator has no kernel, no container and no wiring.
	{"internal/sim", []string{"internal/agent", "internal/cluster", "internal/consensus", "internal/control", "internal/dispatch",
		"internal/dispatch/protocol", "internal/engine", "internal/engine/fake", "internal/network", "internal/network/fake",
		"internal/reconcile", "internal/reconcile/*", "internal/store"}},
	// Its upper level runs whole daemons as they are wired, on engines and kernels that are fakes.
	{"internal/sim/swarm", []string{"internal/cluster", "internal/consensus", "internal/control", "internal/engine", "internal/engine/fake", "internal/network/fake",
		"internal/node", "internal/sim", "internal/store"}},
	// Wiring: the one package that sees everything.
	{"internal/node", []string{"internal/*"}},
	{"internal/node/*", []string{"internal/*"}},
	{"cmd/shoald", []string{"internal/node"}},
	// The client talks to the API and to nothing else.
	{"cmd/shoal", []string{"cmd/shoal/*"}},
	{"cmd/shoal/internal/daemon", nil},
	// But for the doctor, which comes where no daemon runs, too.
	{"cmd/shoal/internal/doctor", []string{"cmd/shoal/internal/daemon", "internal/doctor"}},
	{"cmd/shoal/internal/stack", []string{"cmd/shoal/internal/compose", "cmd/shoal/internal/daemon", "cmd/shoal/internal/dryrun"}},
	{"cmd/shoal/internal/rotate", []string{"cmd/shoal/internal/daemon", "cmd/shoal/internal/dryrun"}},
	{"cmd/shoal/internal/*", []string{"cmd/shoal/internal/daemon"}},
	{"cmd/shoal/*", nil},
	{"cmd/shoal-init", nil}, // it is in memory with every container that has it
	{"cmd/containerd-shim-shoal-v1", []string{"internal/engine/containerd/*"}},
	// What looks at Shoal from outside, as a user does, uses nothing of its inside.
	{"lab/images", nil},
	{"lab/images/*", nil},
	{"lab", []string{"lab/images"}},
	{"lab/cmd/*", []string{"lab", "lab/*"}},
	{"bench", []string{"lab", "bench/*"}},
	// What measures the control plane by itself is made of its parts.
	{"bench/scale", []string{"bench", "internal/*"}},
	{"bench/*", []string{"lab", "bench", "bench/*"}},
	{"compat", []string{"lab"}},
	{"compat/*", []string{"lab", "compat", "compat/*"}},
}

// foreign says which packages may import a module of others that belongs to one part of the design.
var foreign = []struct {
	module string
	users  []string
}{
	// link hands Raft its streams, as Raft's own interface.
	{"github.com/hashicorp/raft", []string{"internal/consensus", "internal/link", "internal/sim", "bench/scale"}},
	{"github.com/tidwall/btree", []string{"internal/store"}},
	{"github.com/hashicorp/yamux", []string{"internal/link"}},
	{"go.etcd.io/bbolt", []string{"internal/consensus", "internal/agent", "internal/engine/*"}},
	{"github.com/containerd/containerd/v2", []string{"internal/engine/*", "cmd/containerd-shim-shoal-v1"}},
	{"github.com/google/nftables", []string{"internal/network/*"}},
	{"github.com/vishvananda/netlink", []string{"internal/network/*"}},
	{"github.com/miekg/dns", []string{"internal/network/dns"}},
	{"github.com/robfig/cron/v3", []string{"internal/cron"}},
	{"github.com/docker/cli", []string{"cmd/shoal", "cmd/shoal/*"}},
	{"github.com/anishathalye/porcupine", []string{"internal/sim/swarm"}},
	{"github.com/google/go-containerregistry", []string{"lab", "lab/*", "bench"}},
}

// pure lists the packages whose answers depend on their arguments alone: they read no clock and no randomness, and
// touch neither files nor the network.
var pure = []string{"internal/network", "internal/network/local", "internal/reconcile/*", "internal/template", "internal/cron"}

var (
	impureImports = []string{"crypto/rand", "math/rand", "math/rand/v2", "net/http", "os", "os/exec", "syscall"}
	impureCalls   = []string{"time.Now", "time.Since", "time.Until", "time.After", "time.AfterFunc", "time.NewTimer", "time.NewTicker", "time.Tick", "time.Sleep", "cluster.NewID",
		"net.Dial", "net.DialTimeout", "net.Listen", "net.ListenPacket", "net.LookupHost", "net.LookupIP", "net.Interfaces", "net.InterfaceAddrs"}
)

// meaningless names a package for nothing that it decides.
var meaningless = []string{"util", "utils", "common", "types", "manager", "managers", "helper", "helpers", "misc"}

// maxLines is the length from which a file is a design question.
const maxLines = 600

// ownMachine matches paths that exist only where somebody happened to write Shoal.
var ownMachine = regexp.MustCompile(`/work/(main|shared|\.)|/root/(go|\.)|/home/[a-z]+/|/tmp/(bash_jobs|BRIEF)`)

// source is a parsed Go file.
type source struct {
	name string // its path below the root
	pkg  string // its folder below the root
	test bool
	file *ast.File
	set  *token.FileSet
}

// files returns every file of the repository that somebody wrote.
func files(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", ".lab", "bin", "node_modules", "testdata"}, d.Name()) {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	for _, name := range files(t) {
		if filepath.Ext(name) != ".go" {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, source{name, filepath.ToSlash(filepath.Dir(name)), strings.HasSuffix(name, "_test.go"), f, set})
	}
	if len(all) < 20 {
		t.Fatalf("only %d Go files: is this the root of the repository?", len(all))
	}
	return all
}

// imports returns the paths that a file imports.
func (s source) imports(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, i := range s.file.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// hasTests says whether a file has tests itself.
func (s source) hasTests() bool {
	return slices.ContainsFunc(s.file.Decls, func(d ast.Decl) bool {
		fn, ok := d.(*ast.FuncDecl)
		return ok && fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz"))
	})
}

// fits says whether a package is meant by a pattern of the tables.
func fits(pattern, pkg string) bool {
	if below, ok := strings.CutSuffix(pattern, "/*"); ok {
		return strings.HasPrefix(pkg, below+"/")
	}
	return pattern == pkg
}

func fitsAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return fits(p, pkg) })
}

func TestImportsPointDown(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue // a test may use fakes and suites of others
		}
		row := slices.IndexFunc(layers, func(l struct {
			pkg  string
			uses []string
		}) bool {
			return fits(l.pkg, s.pkg)
		})
		for _, p := range s.imports(t) {
			own, ok := strings.CutPrefix(p, module+"/")
			switch {
			case !ok:
				for _, f := range foreign {
					if (p == f.module || strings.HasPrefix(p, f.module+"/")) && !fitsAny(f.users, s.pkg) {
						t.Errorf("%s imports %s, which belongs to %s", s.name, p, strings.Join(f.users, ", "))
					}
				}
			case row < 0:
				t.Errorf("%s: package %s has no row in layers: say what it may import", s.name, s.pkg)
			case !fitsAny(layers[row].uses, own):
				t.Errorf("%s imports %s; %s may import %s", s.name, own, s.pkg, strings.Join(append([]string{"nothing of ours but"}, layers[row].uses...), " "))
			}
		}
	}
}

func TestPure(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || !fitsAny(pure, s.pkg) || strings.HasSuffix(s.pkg, "test") { // a suite or a harness is no planner
			continue
		}
		for _, p := range s.imports(t) {
			if slices.Contains(impureImports, p) {
				t.Errorf("%s imports %s: %s depends on its arguments alone", s.name, p, s.pkg)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(impureCalls, x.Name+"."+sel.Sel.Name) {
					t.Errorf("%s: %s.%s: %s depends on its arguments alone", s.set.Position(n.Pos()), x.Name, sel.Sel.Name, s.pkg)
				}
			}
			return true
		})
	}
}

func TestPackagesAreDocumentedAndNamed(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.test && s.pkg != "." {
			continue
		}
		documented[s.pkg] = documented[s.pkg] || s.file.Doc != nil && len(s.file.Doc.Text()) > 40
		if name := s.file.Name.Name; slices.Contains(meaningless, name) {
			t.Errorf("%s: a package is named for what it decides, not %s", s.name, name)
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no doc that says what it decides, owns and never does", pkg)
		}
		if slices.Contains(meaningless, path.Base(pkg)) {
			t.Errorf("folder %s: a package is named for what it decides", pkg)
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	for _, s := range sources(t) {
		if n := s.set.Position(s.file.FileEnd).Line; n > maxLines {
			t.Errorf("%s has %d lines; from %d on a file is a design question", s.name, n, maxLines)
		}
	}
}

// TestNoSleep sees that tests wait for conditions, not for time to pass; only virtual time may be slept through: in a
// file with bubbles, or in a fake of a package that tests in bubbles.
func TestNoSleep(t *testing.T) {
	all := sources(t)
	bubbles := map[string]bool{}
	for _, s := range all {
		if slices.Contains(s.imports(t), "testing/synctest") {
			bubbles[s.pkg] = true
			bubbles[s.name] = true
		}
	}
	for _, s := range all {
		if !s.test || bubbles[s.name] || bubbles[s.pkg] && !s.hasTests() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && sel.Sel.Name == "Sleep" {
					t.Errorf("%s: time.Sleep in a test: wait for a condition with a deadline", s.set.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

// TestNoInit sees that nothing of ours runs before main, and that nobody registers himself somewhere.
func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init", s.set.Position(fn.Pos()))
			}
		}
	}
}

func TestNoPathsOfOneMachine(t *testing.T) {
	for _, name := range files(t) {
		if name == "layers_test.go" || name == ".git" { // in a second work tree, .git is a file with a path in it
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(data, 0) >= 0 {
			continue
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		lines.Buffer(nil, 16<<20)
		for n := 1; lines.Scan(); n++ {
			if found := ownMachine.FindString(lines.Text()); found != "" {
				t.Errorf("%s:%d names %s, which nobody else has", name, n, found)
			}
		}
		if err := lines.Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
