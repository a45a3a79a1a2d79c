package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// siblings name docker/cli's command of each kind of object that completes the objects' names.
var siblings = map[string]string{"config": "inspect", "network": "inspect", "node": "inspect", "secret": "inspect", "service": "inspect", "stack": "ps"}

// completeNames has our own commands complete names as docker/cli's commands beside them do, and files where they take one.
func completeNames(root *cobra.Command) {
	for _, group := range root.Commands() {
		object := strings.ToUpper(group.Name())
		named := find(group, siblings[group.Name()])
		for _, c := range group.Commands() {
			if c.ValidArgsFunction != nil {
				continue
			}
			_, args, _ := strings.Cut(c.Use, " ")
			switch {
			case named != nil && strings.Contains(args, object):
				c.ValidArgsFunction = named.ValidArgsFunction
			case strings.Contains(args, "FILE"):
				c.ValidArgsFunction = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
			}
		}
	}
}

// find returns the command of that name below another; nil if there is none.
func find(parent *cobra.Command, name string) *cobra.Command {
	for _, c := range parent.Commands() {
		if c.Name() == name {
			return c
		}
	}
	return nil
}
