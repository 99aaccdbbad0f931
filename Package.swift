// swift-tools-version: 6.1
// The arrows between targets are the architecture: `tools/check` verifies them.
import PackageDescription

// CSupport is C with OpenMP. Every ISA row is compiled in by `#pragma clang attribute`, so no per-file flag is needed.
// `unsafeFlags` bars use of this package as a *versioned* dependency (see README).
let kernelSettings: [CSetting] = [
    .headerSearchPath("."),
    .unsafeFlags(["-fopenmp", "-O3", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra"]),
]

let package = Package(
    name: "hssl",
    products: [
        .executable(name: "hssl", targets: ["hssl"]),
        .executable(name: "hssl-extract", targets: ["hssl-extract"]),
        .library(name: "HSSLRuntime", targets: ["HSSLRuntime"]),
        .library(name: "HSSLData", targets: ["HSSLData"]),
        .library(name: "HSSLPretraining", targets: ["HSSLPretraining"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.6.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.0.0"),
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
    ],
    targets: [
        // C
        .target(name: "CSupport", path: "CSupport", exclude: ["README.md"], publicHeadersPath: "include",
                cSettings: kernelSettings, linkerSettings: [.linkedLibrary("omp5"), .linkedLibrary("m")]),
        .target(name: "CImage", publicHeadersPath: "include",
                cSettings: [.unsafeFlags(["-O3", "-Wall", "-Wextra"])],
                linkerSettings: ["jpeg", "spng", "z", "webp", "webpdemux", "gif", "tiff"].map { .linkedLibrary($0) }),

        // Deployment: everything hssl-extract links
        .target(name: "HSSLFormats"),
        .target(name: "HSSLData", dependencies: ["CSupport", "CImage", "HSSLFormats"]),
        .target(name: "HSSLGraph", dependencies: ["CSupport"]),
        .target(name: "HSSLModels", dependencies: ["HSSLGraph", "HSSLFormats"]),
        .target(name: "HSSLRuntime", dependencies: ["HSSLModels"]),
        .target(name: "HSSLCommandLine", dependencies: [
            "HSSLFormats",
            .product(name: "ArgumentParser", package: "swift-argument-parser"),
            .product(name: "Logging", package: "swift-log"),
        ]),

        // Foreign checkpoints
        .target(name: "HSSLImport", dependencies: ["HSSLModels"]),

        // Models for other runtimes
        .target(
            name: "HSSLOnnx",
            dependencies: ["HSSLModels", .product(name: "SwiftProtobuf", package: "swift-protobuf")],
            exclude: ["Format/onnx.proto"]),

        // Training
        .target(name: "HSSLGradients", dependencies: ["HSSLGraph"]),
        .target(name: "HSSLEvaluation", dependencies: ["HSSLRuntime", "HSSLData"]),
        .target(
            name: "HSSLPretraining",
            dependencies: [
                "HSSLGradients", "HSSLModels", "HSSLEvaluation", "HSSLRuntime",
                .product(name: "Yams", package: "Yams")]),

        .target(name: "HSSLBenchmarks", dependencies: ["HSSLPretraining", "HSSLRuntime"]),

        // Commands
        .executableTarget(
            name: "hssl",
            dependencies: ["HSSLPretraining", "HSSLImport", "HSSLOnnx", "HSSLBenchmarks", "HSSLCommandLine"]),
        .executableTarget(name: "hssl-extract", dependencies: ["HSSLRuntime", "HSSLData", "HSSLCommandLine"]),

        // Tests
        .target(name: "TestSupport", dependencies: ["CSupport", "HSSLFormats"], path: "Tests/TestSupport"),
        .target(name: "KernelOracle", dependencies: ["CSupport"], path: "Tests/KernelOracle",
                cSettings: [
                    .headerSearchPath("../../CSupport"),
                    .unsafeFlags(["-O3", "-ffp-contract=off", "-Wall", "-Wextra"])]),
        .target(name: "AllocationCounter", path: "Tests/AllocationCounter"),
        .testTarget(name: "CSupportTests", dependencies: ["CSupport", "KernelOracle", "TestSupport"]),
        .testTarget(name: "HSSLFormatsTests", dependencies: ["HSSLFormats", "TestSupport"]),
        .testTarget(name: "HSSLDataTests", dependencies: ["HSSLData", "TestSupport"], resources: [.copy("Fixtures")]),
        .testTarget(name: "HSSLGraphTests", dependencies: ["HSSLGraph", "HSSLGradients", "TestSupport"]),
        .testTarget(name: "HSSLModelsTests", dependencies: ["HSSLModels", "HSSLRuntime", "TestSupport"]),
        .testTarget(name: "HSSLImportTests", dependencies: ["HSSLImport", "TestSupport"]),
        .testTarget(name: "HSSLOnnxTests", dependencies: ["HSSLOnnx", "HSSLModels", "TestSupport"]),
        .testTarget(name: "HSSLRuntimeTests", dependencies: ["HSSLRuntime", "TestSupport", "AllocationCounter"]),
        .testTarget(name: "HSSLEvaluationTests", dependencies: ["HSSLEvaluation", "TestSupport"]),
        .testTarget(
            name: "HSSLPretrainingTests", dependencies: ["HSSLPretraining", "TestSupport"],
            resources: [.copy("Fixtures")]),
        .testTarget(name: "HSSLCommandLineTests", dependencies: ["HSSLCommandLine"]),
        .testTarget(
            name: "CommandTests",
            dependencies: [
                "hssl", "hssl-extract", "HSSLFormats", "HSSLModels", "HSSLRuntime", "HSSLData", "TestSupport"],
            resources: [.copy("Fixtures")]),
        // Of the programs only, so that it outlives their Swift interfaces; HSSLFormats for its CRC-32C.
        .testTarget(
            name: "CompatibilityTests", dependencies: ["hssl", "hssl-extract", "HSSLFormats"], exclude: ["Fixtures"]),
    ],
    swiftLanguageModes: [.v6]
)
