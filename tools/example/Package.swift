// swift-tools-version: 6.1
// A program of somebody else's that uses HSSL as a library, by path. tools/test builds and runs it.
import PackageDescription

let library: [Target.Dependency] = [
    .product(name: "HSSLRuntime", package: "hssl"), .product(name: "HSSLData", package: "hssl"),
]
let package = Package(
    name: "example",
    dependencies: [.package(name: "hssl", path: "../..")],
    targets: [
        .executableTarget(name: "example", dependencies: library),
        .executableTarget(name: "together", dependencies: library),
    ]
)
