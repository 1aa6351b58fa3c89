package rootfs

import "github.com/nslab/nslab/course"

// zh is what the steps and the errors say, in Chinese.
func zh() course.Messages {
	return course.Messages{
		// build
		"%s (%s): was asked for":                                       "%s（%s）：指定要的程序",
		"%s (%s): loader of %s":                                        "%s（%s）：%s 的装载器",
		"%s (%s): library of %s":                                       "%s（%s）：%s 的库",
		"%s (%s): interpreter of %s":                                   "%s（%s）：%s 的解释器",
		"%s (%s): tells the loader where the libraries lie":            "%s（%s）：告诉装载器库在哪里",
		"and %s links to busybox, which does what the name says: %s …": "还有 %s 个指向 busybox 的链接，叫什么名字就做什么事：%s …",
		"and %s folders and %s links: %s":                              "另有 %s 个目录和 %s 个链接：%s",
		"the cat that runs in there has mapped: %s":                    "在里面运行的 cat 映射了这些文件：%s",
		"what it has mapped is what was found in the headers: nothing is missing, nothing is too much": "它映射的文件正是从文件头里找到的那些：不缺，也不多",

		// missing
		"%s of this machine is static: it needs no loader, and none can be missing": "这台机器的 %s 是静态链接的：不需要装载器，也就无从缺起",
		"without %s, the kernel's answer to execve: %s":                             "没有 %s 时，内核对 execve 的回答：%s",
		"the program itself, looked up from outside: %s":                            "从外面查看程序文件本身：%s",
		"a missing loader is \"no such file\", too":                                 "缺了装载器，同样是“没有那个文件”",
		"though the file that was named is there":                                   "尽管指定的那个文件就在那里",
		"without %s, what the loader says: %s":                                      "没有 %s 时，装载器说：%s",
		"the loader names the library that is missing":                              "装载器会说出缺的是哪个库",
		"with everything in place: %s":                                              "一切就位之后：%s",
		"with both it runs":                                                         "两样都在，它就能运行",

		// chroot
		"/proc/%s/root, seen from outside: %s before, %s after": "从外面看 /proc/%s/root：之前 %s，之后 %s",
		"device and inode of its root: %s before, %s after":     "它的根的设备号和 inode：之前 %s，之后 %s",
		"ls / says: %s":                                          "ls / 的输出：%s",
		"its root is the folder that was built":                  "它的根就是刚才做好的那个目录",
		"ls / shows what is in that folder":                      "ls / 列出的就是那个目录的内容",
		"the root of the process that started it is what it was": "启动它的进程，根没有变",
		"no mount was made or changed for it":                    "没有为此新建或改动任何挂载",

		// walk-out, walk-again
		"its root: device and inode %s, with %s":                                                      "它的根：设备号和 inode 为 %s，内容有 %s",
		"the host's root has device and inode %s":                                                     "宿主机的根，设备号和 inode 为 %s",
		"at first its root is not the host's":                                                         "起初它的根不是宿主机的根",
		"after the walk it is the host's: it is out":                                                  "走过之后，它的根成了宿主机的根：它出来了",
		"after the same walk it still is":                                                             "走过同样的路之后，仍然是它",
		"it has not reached the host's":                                                               "它没能到达宿主机的根",
		"this machine runs on its initial ramfs, where pivot_root is impossible: nothing to see here": "这台机器运行在 initramfs 上，无法使用 pivot_root：这一步没有可看的",

		// pivot
		"before: %s mounts; on / is mount %s, %s":                             "之前：%s 个挂载；/ 上是 %s 号挂载，%s",
		"in between: on / are mounts %s; the uppermost is %s, and lies on %s": "中途：/ 上有挂载 %s；最上面的是 %s 号，叠在 %s 号上",
		"the old root is not gone: it lies on top of the new one":             "旧根并没有消失：它盖在新根之上",
		"after: %s": "之后：%s",
		"of all mounts of the namespace one is left: the new root":            "命名空间里的所有挂载只剩一个：新根",
		"its own program is still %s, on mount %s, which is not in its table": "它自己的程序仍是 %s，位于 %s 号挂载，而它的挂载表里没有这个挂载",
		"what was open stays usable, though no path leads there":              "已经打开的文件仍然可用，虽然再没有路径通向那里",
		"outside of its mount namespace, / is what it was":                    "在它的挂载命名空间之外，/ 没有变",

		// errno
		"pivot_root says %s, and what does not hold is named": "pivot_root 返回 %s，不成立的条件也指了出来",
		"with all of them met it agrees":                      "全部满足之后，它就同意了",
		"its root is the folder that was bound":               "它的根就是绑定过的那个目录",

		// furnish
		"the root was changed by pivot_root": "换根用的是 pivot_root",
		"the root was changed by chroot: this machine runs on its initial ramfs, where pivot_root is impossible": "换根用的是 chroot：这台机器运行在 initramfs 上，无法使用 pivot_root",
		"mounted inside: %s": "里面的挂载：%s",
		"in its /dev: %s":    "它的 /dev 里有：%s",
		"its devices are the harmless ones, with the right numbers":      "它的设备都是无害的那几个，设备号也对",
		"device of the file system on /dev/pts: %s outside, %s inside":   "/dev/pts 上文件系统的设备号：外面 %s，里面 %s",
		"its terminals are its own, not the host's":                      "终端是它自己的，不是宿主机的",
		"its /proc shows its own PID namespace":                          "它的 /proc 展示的是自己的 PID 命名空间",
		"its /sys cannot be written":                                     "它的 /sys 不可写",
		"a shell inside writes to /dev/null and reads /etc/hostname: %s": "里面的 shell 写 /dev/null，再读 /etc/hostname：%s",
		"its devices work, and its /etc is its own":                      "它的设备能用，/etc 也是自己的",

		// links
		"the image has: %s, %s": "镜像里有：%s，%s",
		"a careless program writes \"box\" to %s; %s now says: %s":         "粗心的程序把“box”写进 %s；现在 %s 的内容是：%s",
		"the careless program has overwritten a file outside of the image": "粗心的程序覆盖了镜像之外的文件",
		"the runtime writes it; %s now says: %s":                           "换运行时来写；现在 %s 的内容是：%s",
		"the runtime has left it alone":                                    "运行时没有碰它",
		"and replaced the link in the image by a file":                     "而是把镜像里的链接换成了文件",
		"a /proc that is a link is refused":                                "/proc 是链接，就被拒绝",
		"and nothing was mounted anywhere":                                 "而且哪里都没有挂载任何东西",

		// distribution
		"%s: %s files, %s folders, %s links":                    "%s：%s 个文件，%s 个目录，%s 个链接",
		"PRETTY_NAME in /etc/os-release: %s outside, %s inside": "/etc/os-release 里的 PRETTY_NAME：外面 %s，里面 %s",
		"uname -r: %s outside, %s inside":                       "uname -r：外面 %s，里面 %s",
		"inside it is the distribution of the tar":              "里面是 tar 包中的那个发行版",
		"and the same kernel: an image has none":                "内核却是同一个：镜像里没有内核",

		// what the kernel requires
		"the folder is no symbolic link":                                                                  "该目录不是符号链接",
		"the image is not to be trusted: it wants to choose where the mount goes":                         "这个镜像不可信：它想自己决定挂载到哪里",
		"nothing is mounted on the folder yet":                                                            "该目录上还没有挂载任何东西",
		"unmount it, or leave out what the mount is for":                                                  "先卸载它，或者不做这项挂载",
		"the new root is a folder that exists":                                                            "新根是一个存在的目录",
		"put_old is a folder that exists":                                                                 "put_old 是一个存在的目录",
		"name a folder: a file cannot be a root":                                                          "请指定目录：文件不能当根",
		"the process has CAP_SYS_CHROOT":                                                                  "进程拥有 CAP_SYS_CHROOT",
		"the process has CAP_SYS_ADMIN":                                                                   "进程拥有 CAP_SYS_ADMIN",
		"run nslab as root, or give the process a user namespace and a mount namespace together":          "以 root 身份运行 nslab，或者同时给进程用户命名空间和挂载命名空间",
		"the new root is on another mount than the present root":                                          "新根与当前的根不在同一个挂载上",
		"put_old is on another mount than the present root":                                               "put_old 与当前的根不在同一个挂载上",
		"bind the folder onto itself first: then it is a mount of its own":                                "先把该目录绑定到自己身上：它就成了独立的挂载",
		"the new root is a mount point":                                                                   "新根是挂载点",
		"the mount around the new root is not shared":                                                     "新根外层的挂载不是共享的",
		"make all mounts private first: mount --make-rprivate /":                                          "先把所有挂载设为私有：mount --make-rprivate /",
		"the mount that put_old lies on is not shared":                                                    "put_old 所在的挂载不是共享的",
		"put_old lies at or below the new root":                                                           "put_old 就是新根，或在新根之下",
		"name the new root twice: the old root is then stacked on it":                                     "两个参数都用新根：旧根会叠放在它上面",
		"the present root is a mount point":                                                               "当前的根是挂载点",
		"do it before any chroot, not after":                                                              "要在 chroot 之前做，而不是之后",
		"the present root is not the initial ramfs":                                                       "当前的根不是 initramfs",
		"there is nothing to exchange it with: move the new root onto / and chroot, as rootfs.Enter does": "没有东西可以和它交换：把新根移到 / 上再 chroot，rootfs.Enter 就是这样做的",
		"the new root was mounted in this user namespace, not inherited":                                  "新根是在这个用户命名空间里挂载的，不是继承来的",
	}
}
