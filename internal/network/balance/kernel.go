package balance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/google/nftables"

	"shoal.dev/shoal/internal/network/ruleset"
)

// nftTimeout bounds one run of the nft program. Loading 100,000 elements takes about a second.
const nftTimeout = 30 * time.Second

// nft has the nft program execute text as one transaction.
func (t *Table) nft(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, nftTimeout)
	defer cancel()
	return t.cfg.In(func() error {
		cmd := exec.CommandContext(ctx, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return errors.New("the program nft is not installed; install the package nftables")
		case err != nil:
			return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}

// tables are ours; of sets that change with the swarm the elements count.
func tables() []ruleset.Table {
	return []ruleset.Table{
		{Family: byte(nftables.TableFamilyIPv4), Name: tableName, Sets: []string{"zones", "marks", "nodes", "ports", "closed", "bound", "published", "vnis", "senders"}, Passing: []string{countedSet}},
		{Family: byte(nftables.TableFamilyNetdev), Name: tableName, Sets: []string{"peers"}},
	}
}
