package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"sallyport/policy"
)

func schemaCommand() *cobra.Command {
	var all string
	c := &cobra.Command{
		Use:   "schema {STAGE | --all DIR}",
		Short: "Print the JSON Schema of a stage's input",
		Long: `Print the JSON Schema of a stage's input, for opa check --schema and for editors.
The stages are ` + stageNames() + `.

--all writes those of all stages to DIR/STAGE.json. With opa check --schema DIR the
schema of route is then schema.route in the METADATA of a policy.`,
		Example: `  sallyport schema route
  sallyport schema --all schemas/
  opa check --strict --schema schemas/ policies/`,
		ValidArgs: slices.Collect(stagesAsText),
		Args: func(c *cobra.Command, args []string) error {
			if c.Flag("all").Changed {
				return noArguments(c, args)
			}
			return oneStage(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flag("all").Changed {
				return writeSchemas(all)
			}
			_, err := c.OutOrStdout().Write(policy.Schema(policy.Stage(args[0])))
			return err
		},
	}
	c.Flags().StringVar(&all, "all", "", "write the schemas of all stages into this `DIR`, which is made where it is missing")
	return c
}

func writeSchemas(dir string) error {
	if dir == "" {
		return errors.New("--all: must not be empty")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return failure{plain(err)}
	}
	for _, stage := range policy.Stages() {
		if err := os.WriteFile(filepath.Join(dir, string(stage)+".json"), policy.Schema(stage), 0o644); err != nil {
			return failure{plain(err)}
		}
	}
	return nil
}

// plain is an error of the file system without the name of the system call.
func plain(err error) error {
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		return fmt.Errorf("%s: %w", at.Path, at.Err)
	}
	return err
}
