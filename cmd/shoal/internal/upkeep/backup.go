package upkeep

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

// A backup begins with this and ends with the SHA-256 digest of all before; see internal/store.
const (
	backupMagic = "SHOALBK1"
	backupType  = "application/vnd.shoal.backup"
)

func newBackupCommand(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE|-",
		Short: "Save the swarm's state to a file",
		Long: `Save all of the swarm's state to a file: services, networks, secrets, configs, nodes, settings, tokens and the
certificate authority. Any manager can be asked; nothing is interrupted. The daemon reads everything back before it
ends the file, and the client reads the file back.

The file is not encrypted and holds the swarm's private keys and every secret. It is made readable by its owner only.`,
		Args:                  cli.ExactArgs(1),
		RunE:                  func(cmd *cobra.Command, args []string) error { return runBackup(cmd.Context(), dockerCLI, args[0]) },
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
	}
}

func runBackup(ctx context.Context, dockerCLI command.Cli, file string) error {
	if file == "-" && dockerCLI.Out().IsTerminal() {
		return errors.New("cowardly refusing to save to a terminal. Name a file or redirect")
	}
	resp, err := daemon.Ask(ctx, dockerCLI, http.MethodGet, "/shoal/v1/swarm/backup", "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if why := resp.Header.Get(daemon.StaleHeader); why != "" {
		fmt.Fprintln(dockerCLI.Err(), "WARNING:", why)
	}
	if file == "-" {
		return checkBackup(io.TeeReader(resp.Body, dockerCLI.Out()))
	}
	size, err := writeBackup(file, resp.Body)
	if err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "Swarm backed up to %s (%s)\n", file, units.HumanSize(float64(size)))
	fmt.Fprintln(dockerCLI.Err(), "WARNING: the file holds the swarm's private keys and secrets and is not encrypted")
	return nil
}

// writeBackup replaces the file by a backup that was read back from the disk, or leaves it as it is.
func writeBackup(file string, from io.Reader) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*") // 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if size, err = io.Copy(f, from); err != nil {
		return 0, fmt.Errorf("the backup was cut off: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	if err := checkBackup(f); err != nil {
		return 0, err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return 0, err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return 0, err
	}
	return size, errors.Join(dir.Sync(), dir.Close())
}

// checkBackup reads a backup to its end and says what is wrong with it.
func checkBackup(r io.Reader) error {
	var (
		sum  = sha256.New()
		tail []byte // the last bytes read, which may be the digest
		buf  = make([]byte, 64<<10)
		head []byte
	)
	for {
		n, err := r.Read(buf)
		if len(head) < len(backupMagic) {
			head = append(head, buf[:min(n, len(backupMagic)-len(head))]...)
		}
		tail = append(tail, buf[:n]...)
		if over := len(tail) - sha256.Size; over > 0 {
			sum.Write(tail[:over])
			tail = append(tail[:0], tail[over:]...)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("the backup was cut off: %w", err)
		}
	}
	switch {
	case string(head) != backupMagic:
		return errors.New("it is not a backup of a swarm")
	case !bytes.Equal(tail, sum.Sum(nil)):
		return errors.New("the backup is cut off or damaged: its digest is not that of its content")
	}
	return nil
}

type restoreOptions struct{ advertise, listen, dataPath string }

func newRestoreCommand(dockerCLI command.Cli) *cobra.Command {
	var o restoreOptions
	cmd := &cobra.Command{
		Use:   "restore [OPTIONS] FILE",
		Short: "Make a swarm from a backup",
		Long: `Make a swarm of this node alone from a backup, with everything that the backup has. The node must be in no swarm.

Managers of the old swarm are workers in the restored one until they join it again; its workers go on as members if
they know this node's address as a manager's. Do not restore while the old swarm still runs: there would be two.`,
		Args:                  cli.ExactArgs(1),
		RunE:                  func(cmd *cobra.Command, args []string) error { return runRestore(cmd.Context(), dockerCLI, args[0], o) },
		Annotations:           map[string]string{"version": "1.24", "swarm": ""}, // on a node in no swarm
		DisableFlagsInUseLine: true,
	}
	f := cmd.Flags()
	f.StringVar(&o.advertise, "advertise-addr", "", `Advertised address (format: "<ip|interface>[:port]")`)
	f.StringVar(&o.listen, "listen-addr", "0.0.0.0:2377", `Listen address (format: "<ip|interface>[:port]")`)
	f.StringVar(&o.dataPath, "data-path-addr", "", `Address or interface to use for data path traffic (format: "<ip|interface>")`)
	return cmd
}

func runRestore(ctx context.Context, dockerCLI command.Cli, file string, o restoreOptions) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := checkBackup(f); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	q := url.Values{"advertise": {o.advertise}, "listen": {o.listen}, "datapath": {o.dataPath}}
	resp, err := daemon.Ask(ctx, dockerCLI, http.MethodPost, "/shoal/v1/swarm/restore?"+q.Encode(), backupType, f)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var id string
	if err := json.NewDecoder(io.LimitReader(resp.Body, daemon.MaxRefusal)).Decode(&id); err != nil {
		return fmt.Errorf("reading the daemon's answer: %w", err)
	}
	fmt.Fprintf(dockerCLI.Out(), "Swarm restored: current node (%s) is now its only manager.\n\n"+
		"To add a manager, run 'shoal swarm join-token manager' and follow the instructions.\n", id)
	return nil
}
