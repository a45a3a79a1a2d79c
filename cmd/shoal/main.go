// Command shoal is the client: docker/cli's command tree against Shoal's API, with Shoal's name in its texts.
//
// It decides which daemon it speaks to and what the program is called; the commands are docker/cli's. It speaks to
// nothing but the API (and to a registry where docker does, as for login), runs no CLI plugins and sends no telemetry.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/commands"
	"github.com/docker/cli/cli/config"
	cliflags "github.com/docker/cli/cli/flags"
	dockerversion "github.com/docker/cli/cli/version"
	"github.com/moby/moby/client"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/access"
	"shoal.dev/shoal/cmd/shoal/internal/anywhere"
	"shoal.dev/shoal/cmd/shoal/internal/brand"
	"shoal.dev/shoal/cmd/shoal/internal/compose"
	"shoal.dev/shoal/cmd/shoal/internal/daemon"
	"shoal.dev/shoal/cmd/shoal/internal/doctor"
	"shoal.dev/shoal/cmd/shoal/internal/dryrun"
	"shoal.dev/shoal/cmd/shoal/internal/rotate"
	"shoal.dev/shoal/cmd/shoal/internal/service"
	"shoal.dev/shoal/cmd/shoal/internal/stack"
	"shoal.dev/shoal/cmd/shoal/internal/upkeep"
)

// version is set by the linker.
var version = "0.0.0-dev"

// DefaultHost is where the daemon listens unless told otherwise.
const DefaultHost = "unix:///run/shoal.sock"

// envHost names the daemon like DOCKER_HOST and wins over it, for machines that have both.
const envHost = "SHOAL_HOST"

// envHeaders is docker/cli's name for further headers of every request.
const envHeaders = "DOCKER_CUSTOM_HEADERS"

func main() { os.Exit(run()) }

// signalled is the cause of the end when a signal was it.
type signalled struct{ syscall.Signal }

func (signalled) Error() string { return "" }

func run() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)

	prepareEnvironment()
	dc, err := command.NewDockerCli(command.WithBaseContext(ctx), command.WithUserAgent("Shoal-Client/"+version),
		command.WithAPIClientOptions(client.WithHTTPResponseHook(warnStale(os.Stderr))))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		cancel(signalled{(<-signals).(syscall.Signal)})
		// Docker's way out of a command that does not end: the third signal.
		<-signals
		<-signals
		fmt.Fprint(dc.Err(), "\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
		dc.In().RestoreTerminal()
		dc.Out().RestoreTerminal()
		dc.Err().RestoreTerminal()
		os.Exit(1)
	}()
	return exitCode(ctx, execute(ctx, dc))
}

// staleHeader is on answers that a manager gave from what it last knew; see internal/node.
const staleHeader = "Shoal-Stale"

// warnStale says once on w that what is printed may be old.
func warnStale(w io.Writer) client.ResponseHook {
	var once sync.Once
	return func(r *http.Response) {
		if why := r.Header.Get(staleHeader); why != "" {
			once.Do(func() { fmt.Fprintln(w, "WARNING:", why) })
		}
	}
}

// exitCode prints the error, unless it says nothing, and gives Docker's code for it.
func exitCode(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	var sig signalled
	if errors.As(err, &sig) {
		return 128 + int(sig.Signal)
	}
	if text := err.Error(); text != "" && !errdefs.IsCanceled(err) {
		fmt.Fprintln(os.Stderr, text)
	}
	var status cli.StatusError
	if errors.As(err, &status) && status.StatusCode != 0 {
		return status.StatusCode
	}
	return 1
}

// prepareEnvironment turns Shoal's names for settings into docker/cli's. Settings are those of docker, kept in
// ~/.shoal unless DOCKER_CONFIG or --config says otherwise, so that a docker client beside it keeps its own.
func prepareEnvironment() {
	if h := os.Getenv(envHost); h != "" {
		os.Setenv(client.EnvOverrideHost, h)
	}
	if os.Getenv(config.EnvOverrideConfigDir) == "" {
		if home, err := os.UserHomeDir(); err == nil {
			config.SetDir(filepath.Join(home, ".shoal"))
		}
	}
	dockerversion.Version, dockerversion.PlatformName = version, "Shoal"
	dockerversion.GitCommit, dockerversion.BuildTime = "", ""
}

func execute(ctx context.Context, dc *command.DockerCli) error {
	logrus.SetOutput(dc.Err())
	root, opts, texts := newRoot(dc)
	top := cli.NewTopLevelCommand(root, dc, opts, root.Flags())
	cmd, args, err := top.HandleGlobalFlags()
	if err != nil {
		return texts().Error(err)
	}
	if err := top.Initialize(command.WithContextResolver(func(dc *command.DockerCli) (string, error) {
		return "", chooseHost(dc, opts)
	})); err != nil {
		return texts().Error(err)
	}
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		texts().Tree(root) // completion describes commands and flags
	}
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(ctx); err != nil {
		return texts().Error(err)
	}
	return nil
}

// chooseHost gives the default context Shoal's socket, unless a flag or the environment names a host. Named contexts
// work as in docker, which is why the default is not put into DOCKER_HOST: that would hide them.
func chooseHost(dc *command.DockerCli, opts *cliflags.ClientOptions) error {
	if len(opts.Hosts) == 0 && os.Getenv(client.EnvOverrideHost) == "" && dc.CurrentContext() == command.DefaultContextName {
		if !opts.TLS {
			opts.Hosts = []string{DefaultHost}
		}
	}
	if err := speakTo(dc, os.Getenv(daemon.EnvNode)); err != nil {
		return err
	}
	return dialBySSH(dc, opts)
}

// speakTo has every request passed on to a node, if one is named.
func speakTo(dc *command.DockerCli, node string) error {
	if node == "" {
		return nil
	}
	// docker/cli takes the headers from one place only: the last of these.
	if env := os.Getenv(envHeaders); env != "" {
		return os.Setenv(envHeaders, env+","+daemon.HeaderNode+"="+node)
	}
	headers := map[string]string{daemon.HeaderNode: node}
	for k, v := range dc.ConfigFile().HTTPHeaders {
		headers[k] = v
	}
	return command.WithAPIClientOptions(client.WithHTTPHeaders(headers))(dc)
}

// newRoot makes the command tree. The texts are made when they are first needed: most commands succeed in silence.
func newRoot(dc *command.DockerCli) (*cobra.Command, *cliflags.ClientOptions, func() *brand.Texts) {
	root := &cobra.Command{
		Use:                   "shoal [OPTIONS] COMMAND [ARG...]",
		Short:                 "A swarm of containers",
		SilenceUsage:          true,
		SilenceErrors:         true,
		TraverseChildren:      true,
		DisableFlagsInUseLine: true,
		Version:               version,
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd:    true,
			DisableDescriptions: os.Getenv("DOCKER_CLI_DISABLE_COMPLETION_DESCRIPTION") != "",
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return supported(cmd, dc) },
	}
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return command.ShowHelp(dc.Err())(cmd, args)
		}
		return fmt.Errorf("shoal: unknown command: shoal %s\n\nRun 'shoal --help' for more information", args[0])
	}
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.SetIn(dc.In())
	root.SetOut(dc.Out())
	root.SetErr(dc.Err())
	opts, _ := cli.SetupRootCommand(root)
	root.SetVersionTemplate("Shoal version {{.Version}}\n")
	delete(root.Annotations, "additionalHelp") // the way to Docker's guides
	root.Flags().Var(nodeFlag{}, "node", "Node of the swarm to speak to, by name or ID, through the manager")
	root.Flags().BoolP("version", "v", false, "Print version information and quit")

	texts := sync.OnceValue(func() *brand.Texts { return brand.New(root) })
	wrapped := brand.NewCli(dc, texts)
	tried := dryrun.NewCli(wrapped)
	commands.AddCommands(root, tried)
	upkeep.AddCommands(root, tried)
	service.AddCommands(root, tried)
	stack.AddCommands(root, tried)
	compose.AddCommands(root, tried)
	rotate.AddCommands(root, tried)
	doctor.AddCommands(root, tried)
	access.AddFlags(root, tried)
	anywhere.AddCommands(root, tried)
	completeNames(root)
	removePluginStubs(root)
	wrapped.Wrap(root)
	tried.AddCommands(root)

	help := root.HelpFunc()
	root.SetHelpFunc(func(c *cobra.Command, args []string) {
		texts().Command(root) // whose flags are those of every command
		texts().Command(c)
		help(c, args)
	})
	return root, opts, texts
}

// removePluginStubs takes away commands that only stand for a plugin, as `bake` for buildx.
func removePluginStubs(root *cobra.Command) {
	for _, c := range root.Commands() {
		if strings.HasPrefix(c.Annotations["aliases"], "docker buildx ") {
			root.RemoveCommand(c)
		}
	}
}

// nodeFlag is --node, which is kept where a user can set it for all commands, too.
type nodeFlag struct{}

func (nodeFlag) String() string      { return os.Getenv(daemon.EnvNode) }
func (nodeFlag) Type() string        { return "string" }
func (nodeFlag) Set(to string) error { return os.Setenv(daemon.EnvNode, to) }
