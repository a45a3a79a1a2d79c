// Package upkeep adds Shoal's own commands to `swarm`: backup, restore and health, and to `swarm update` a manager's own address;
// and check to `network`.
//
// It decides how a backup lies on the client's disk and how a swarm's health and its networks' differences are printed. It never looks into one beyond its digest: what the records mean
// is the daemon's part.
package upkeep

import (
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
)

// AddCommands puts the commands below root's `swarm`.
func AddCommands(root *cobra.Command, cli command.Cli) {
	for _, c := range root.Commands() {
		if c.Name() == "network" {
			c.AddCommand(newCheckCommand(cli))
		}
		if c.Name() == "swarm" {
			c.AddCommand(newBackupCommand(cli), newRestoreCommand(cli), newHealthCommand(cli))
			for _, u := range c.Commands() {
				if u.Name() == "update" {
					addAddress(u, cli)
				}
			}
		}
	}
}
