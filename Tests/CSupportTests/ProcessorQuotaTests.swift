import CSupport
import Foundation
import XCTest

/// Control groups as folders: versions 1 and 2, limits on groups above, containers.
final class ProcessorQuotaTests: XCTestCase {
    private func limit(_ groups: String, _ mounts: String, _ files: [String: String]) throws -> Int32 {
        let root = NSTemporaryDirectory() + "hssl-quota-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: root) }
        for (name, text) in files.merging(
            ["proc/self/cgroup": groups, "proc/self/mountinfo": mounts], uniquingKeysWith: { $1 })
        {
            let path = root + "/" + name
            try FileManager.default.createDirectory(
                atPath: (path as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
            try text.write(toFile: path, atomically: false, encoding: .utf8)
        }
        return hssl_quota_processors(root)
    }

    func testVersion2() throws {
        let mount = "24 23 0:21 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
        XCTAssertEqual(try limit("0::/a/b\n", mount, ["sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"]), 2, "rounded up")
        XCTAssertEqual(try limit("0::/a/b\n", mount, ["sys/fs/cgroup/a/b/cpu.max": "max 100000\n"]), 0)
        XCTAssertEqual(
            try limit(
                "0::/a/b\n", mount,
                ["sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"]), 3)
        XCTAssertEqual(
            try limit("0::/\n", mount, ["sys/fs/cgroup/cpu.max": "10000 100000\n"]), 1, "a container's own name space")
        XCTAssertEqual(try limit("0::/../x\n", mount, ["sys/fs/cgroup/cpu.max": "400000 100000\n"]), 4)
        XCTAssertEqual(try limit("0::/a\n", mount, ["sys/fs/cgroup/a/cpu.max": "nonsense\n"]), 0)
        XCTAssertEqual(try limit("0::/a\n", "", [:]), 0)
    }

    func testVersion1() throws {
        let mount =
            "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n32 25 0:28 / "
            + "/sys/fs/cgroup/cpuset rw shared:10 - cgroup cgroup rw,cpuset\n"
        let groups = "5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n"
        let files = ["cpu.cfs_quota_us": "250000\n", "cpu.cfs_period_us": "100000\n"]
        func placed(_ folder: String) -> [String: String] {
            Dictionary(uniqueKeysWithValues: files.map { ("sys/fs/cgroup/cpu,cpuacct\(folder)/\($0)", $1) })
        }
        XCTAssertEqual(try limit(groups, mount, placed("/docker/abc")), 3)
        XCTAssertEqual(try limit(groups, mount, placed("")), 3)
        XCTAssertEqual(
            try limit(groups, mount.replacingOccurrences(of: "0:27 /", with: "0:27 /docker/abc"), placed("")), 3,
            "mounted inside a container")
        XCTAssertEqual(
            try limit(
                groups, mount,
                [
                    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                ]), 0)
    }

    func testWhatThisProcessMayUse() {
        XCTAssertTrue((1...256).contains(hssl_available_processors()))
        XCTAssertEqual(hssl_startable_threads(3), 3)
        XCTAssertEqual(hssl_startable_threads(0), 0)
    }
}
