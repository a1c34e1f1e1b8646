package secret

import (
	"os"

	"golang.org/x/sys/unix"
)

// mounted tells of a file in memory that nobody can write or chmod: Kubernetes, Docker's swarm and systemd hand over
// secrets on a read-only tmpfs or ramfs of the service's own, with modes such as 0444 that say nothing about who gets
// there.
func mounted(file *os.File) bool {
	var on unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &on); err != nil {
		return false
	}
	inMemory := on.Type == unix.TMPFS_MAGIC || on.Type == unix.RAMFS_MAGIC
	return inMemory && on.Flags&unix.ST_RDONLY != 0
}
