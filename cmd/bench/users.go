package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// users are two who run the same program. What the kernel lets a user without
// privileges have of pipes is little, and idle connections may take it from those
// on which much moves.
type users struct{ root, nobody *contender }

// besides is how many idle connections each has meanwhile.
const besides = 500

// errNotRoot is that a program cannot be started as another user.
var errNotRoot = errors.New("one has to be root")

func (s *stable) startUsers(ctx context.Context, program string) (*users, error) {
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	nobody, err := credential("nobody")
	if err != nil {
		return nil, err
	}
	var u users
	for _, one := range []struct {
		name string
		as   *syscall.Credential
		at   **contender
	}{{"as-root", nil, &u.root}, {"as-nobody", nobody, &u.nobody}} {
		r := recipe{name: one.name, scheme: "socks5", program: program, arguments: sallyportAllowingAll, as: one.as}
		if *one.at, err = s.start(ctx, r); err != nil {
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
		if err := warmUp(&(*one.at).client); err != nil {
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
	}
	return &u, nil
}

func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err, err2)
}

// handOver makes a folder another user's, and puts a copy of the program there,
// since the way to it may be closed to others.
func handOver(dir, program string, to *syscall.Credential) (copied string, err error) {
	copied = filepath.Join(dir, filepath.Base(program))
	if err := copyProgram(copied, program); err != nil {
		return "", err
	}
	return copied, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(to.Uid), int(to.Gid))
	})
}

func copyProgram(to, from string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	copied, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(copied, source)
	return errors.Join(err, copied.Close())
}

// bulkIdle is what a gigabyte costs nobody's process, as a ratio to root's, while
// each has idle connections. A proxy that others have started is not measured.
func bulkIdle(ctx context.Context, c *contender, s settings) (figures, error) {
	if c.users == nil {
		return nil, nil
	}
	both := []*contender{c.users.root, c.users.nobody}
	for _, one := range both {
		held, err := hold(ctx, &one.client, besides)
		defer func() {
			for _, conn := range held {
				conn.Close()
			}
		}()
		if err != nil {
			return nil, err
		}
	}
	f := figures{}
	for _, streams := range []int{1, 8} {
		var cost [2]float64
		for _, i := range []int{0, 1, 1, 0} { // a load of the machine that changes slowly is both's
			found, err := bulk(ctx, both[i], s, false, streams)
			if err != nil {
				return f, err
			}
			cost[i] += found[bulkName(false, streams)+"_cpu_s_per_gb"]
		}
		f[bulkName(false, streams)+"_nobody_to_root"] = cost[1] / cost[0]
	}
	return f, nil
}
