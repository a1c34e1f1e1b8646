package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/term"

	"sallyport/proxy/config"
	"sallyport/proxy/secret"
)

// maxSecret bounds what is encrypted and decrypted: as much as a policy may have.
const maxSecret = 256 << 20

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Show the configuration; encrypt and decrypt its files"}
	needsCommand(c)
	c.AddCommand(configShowCommand(), encryptCommand(), decryptCommand())
	return c
}

func configShowCommand() *cobra.Command {
	var o *config.Options
	c := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration that would be in force",
		Long: `Print the configuration that would be in force, of defaults, file, environment and
flags, as YAML or JSON, with [redacted] in place of each secret.`,
		Example: `  sallyport config show --config sallyport.yaml
  sallyport config show --set log.level=debug --format json`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := load(c, o)
			if err != nil {
				return err
			}
			text, err := yaml.Marshal(settings)
			if err != nil {
				return failure{err}
			}
			return print(c, string(text[:len(text)-1]), settings)
		},
	}
	o = configFlags(c)
	return c
}

// files is what encrypt and decrypt have in common.
type files struct {
	identities []string
	output     string
	inPlace    bool
	force      bool
}

func (f *files) flags(c *cobra.Command, output string) {
	c.Flags().StringArrayVar(&f.identities, "age-identity", nil, "`FILE` of a private key, of age-keygen or SSH; may be repeated")
	c.Flags().StringVarP(&f.output, "output", "o", "", "`FILE` to write, - for standard output ("+output+")")
	c.Flags().BoolVar(&f.inPlace, "in-place", false, "remove FILE once the other is written")
	c.Flags().BoolVar(&f.force, "force", false, "replace a file that is there already, which --output does anyway")
}

// read takes the argument's content, and the identities.
func (f *files) read(name string) ([]byte, *secret.Identities, error) {
	if f.inPlace && (name == "-" || f.output != "") {
		return nil, nil, errors.New("--in-place goes with the name of one file, without --output")
	}
	identities, err := secret.ReadIdentities(f.identities, askPassphrase)
	if err != nil {
		return nil, nil, err
	}
	in := os.Stdin
	if name != "-" {
		if in, err = os.Open(name); err != nil {
			return nil, nil, err
		}
		defer in.Close()
	}
	content, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
	if err != nil {
		return nil, nil, err
	}
	if len(content) > maxSecret {
		return nil, nil, fmt.Errorf("%s is larger than %d MiB", name, maxSecret>>20)
	}
	return content, identities, nil
}

// write writes the result to --output or to where it goes without, and removes
// the other file last. A file that nobody has named is not replaced unless --force
// says so: it may be the only one that has what is in it.
func (f *files) write(c *cobra.Command, name, otherwise string, content []byte) error {
	to := f.output
	if to == "" {
		to = otherwise
	}
	if to == "-" {
		if _, err := c.OutOrStdout().Write(content); err != nil {
			return failure{err}
		}
		return nil
	}
	if f.output == "" && !f.force {
		if _, err := os.Lstat(to); err == nil {
			return failure{fmt.Errorf("%s is there already: --force replaces it, --output FILE writes another", to)}
		}
	}
	if err := writeWhole(to, content); err != nil {
		return failure{err}
	}
	if f.inPlace {
		if err := os.Remove(name); err != nil {
			return failure{err}
		}
	}
	return nil
}

// writeWhole makes a file of mode 0600 that is there whole or not at all.
func writeWhole(path string, content []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil // it cannot be told to last, but it is there
	}
	defer folder.Close()
	_ = folder.Sync()
	return nil
}

func encryptCommand() *cobra.Command {
	var f files
	var recipients, recipientFiles []string
	var binary bool
	c := &cobra.Command{
		Use:   "encrypt FILE",
		Short: "Encrypt a file for those who have a key",
		Long: `Encrypt a configuration, a secret or a data file by age, to FILE.age with mode 0600.
Who has the private key of one of the recipients can decrypt it; an --age-identity
stands for its own recipient. FILE may be -, standard input: the result goes to
standard output then. What the age command encrypts to a recipient will do as well.

FILE stays as it is unless --in-place says otherwise, and so does a FILE.age that is
there already unless --force does. What --output names is replaced.`,
		Example: `  sallyport config encrypt --recipient age1… sallyport.yaml
  sallyport config encrypt --age-identity key.txt --in-place users.json
  sallyport config encrypt --recipients-file team.txt --recipient "$(cat id_ed25519.pub)" users.json`,
		Args: oneFile,
		RunE: func(c *cobra.Command, args []string) error {
			content, identities, err := f.read(args[0])
			if err != nil {
				return err
			}
			var to secret.Recipients
			for _, text := range recipients {
				if err := to.Add(text); err != nil {
					return fmt.Errorf("--recipient %w", err)
				}
			}
			for _, name := range recipientFiles {
				if err := to.AddFile(name); err != nil {
					return err
				}
			}
			to.AddIdentities(identities)
			if to.Len() == 0 {
				return errors.New("for whom? want --recipient, --recipients-file or --age-identity")
			}
			sealed, err := to.Encrypt(content, binary)
			if err != nil {
				return fmt.Errorf("%s %w", args[0], err)
			}
			otherwise := "-"
			if args[0] != "-" {
				otherwise = args[0] + ".age"
			}
			return f.write(c, args[0], otherwise, sealed)
		},
	}
	f.flags(c, "default: FILE.age")
	c.Flags().StringArrayVarP(&recipients, "recipient", "r", nil, "`KEY` that may decrypt it: age1… or a public key of SSH; may be repeated")
	c.Flags().StringArrayVarP(&recipientFiles, "recipients-file", "R", nil, "`FILE` of such keys, one a line; may be repeated")
	c.Flags().BoolVar(&binary, "binary", false, "binary rather than text")
	complete(c, "recipient", cobra.NoFileCompletions)
	return c
}

func decryptCommand() *cobra.Command {
	var f files
	c := &cobra.Command{
		Use:   "decrypt FILE",
		Short: "Decrypt a file to standard output",
		Long: `Decrypt a file that sallyport config encrypt or the age command has encrypted to a
recipient, to standard output. Nothing is left on the disk unless --output, or
--in-place, which takes the .age off its name, says so; such a file has mode 0600. One
that is there already is refused by --in-place without --force, and replaced by
--output. FILE may be -, standard input.`,
		Example: `  sallyport config decrypt --age-identity key.txt sallyport.yaml.age
  sallyport config decrypt --age-identity old.txt users.json.age |
    sallyport config encrypt --recipient age1… --output users.json.age -`,
		Args: oneFile,
		RunE: func(c *cobra.Command, args []string) error {
			name := args[0]
			content, identities, err := f.read(name)
			if err != nil {
				return err
			}
			plain, err := identities.Decrypt(content)
			if err != nil {
				return fmt.Errorf("%s %w", name, err)
			}
			to := "-"
			if f.inPlace {
				var isEncrypted bool
				if to, isEncrypted = secret.TrimEncrypted(name); !isEncrypted || filepath.Base(name) == ".age" {
					return fmt.Errorf("--in-place: the name of %s does not end in .age; want --output", name)
				}
			}
			return f.write(c, name, to, plain)
		},
	}
	f.flags(c, "the default")
	return c
}

func oneFile(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s wants one file; see %s --help", c.CommandPath(), c.CommandPath())
	}
	return nil
}

// askPassphrase asks on the terminal that the process belongs to, even where
// standard input is something else. A service has none.
func askPassphrase(identity string) ([]byte, error) {
	terminal, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, errors.New("there is no terminal to ask for it; use a key without one, which systemd or a secret store keeps")
	}
	defer terminal.Close()
	fmt.Fprintf(terminal, "Passphrase of %s: ", identity)
	passphrase, err := term.ReadPassword(int(terminal.Fd()))
	fmt.Fprintln(terminal)
	return passphrase, err
}
