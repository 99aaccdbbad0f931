// swift-tools-version: 6.1
// A program of somebody else's that uses HSSL as a library, by path. tools/test builds and runs it.
import PackageDescription

let package = Package(
    name: "example",
    dependencies: [.package(name: "hssl", path: "../..")],
    targets: [
        .executableTarget(name: "example", dependencies: [
            .product(name: "HSSLRuntime", package: "hssl"), .product(name: "HSSLData", package: "hssl"),
        ]),
    ]
)
